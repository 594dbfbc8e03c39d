"""Names that modules of 00-07 share lose their underscore: python rename_shared.py ROOT. Can be run again."""
import json, re, sys
from pathlib import Path
root = Path(sys.argv[1])
ALL = {"_ties": "TIES", "_plogp": "plogp", "_plogp_": "plogp_", "_uniform": "uniform", "_resample": "resample", "_halving": "halving",
       "_is_out_of_memory": "is_out_of_memory", "_mean_gains": "mean_gains", "_best_candidate": "best_candidate", "_first_best": "first_best",
       "_check_race_error": "check_race_error", "_check_temperature": "check_temperature", "_warn_near_ceiling": "warn_near_ceiling", "_warn_share": "WARN_SHARE",
       "_repeats": "REPEATS", "_most_entries": "MOST_ENTRIES"}
LOW = {"_Rows": "Rows", "_first": "FIRST"}
LOWNB = ("00", "01", "02", "03", "04", "05", "06", "07")
TESTS = ("test_fast_batchbald", "test_distributed", "test_kbald", "test_epig", "test_joint_entropy")
def ren(s, low):
    for a, b in (ALL | LOW if low else ALL).items():
        s = re.sub(rf"(?<![\w]){a}\b(?!\.\w+\.)", b, s)
    return s
for p in sorted((root / "nbs").glob("*.ipynb")):
    t = p.read_text(); nb = json.loads(t)
    for c in nb["cells"]:
        s = "".join(c["source"]); n = ren(s, p.name.startswith(LOWNB))
        if n != s: c["source"] = n.splitlines(True)
    n = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
    if n != t: p.write_text(n); print("changed", p.name)
for d in ("tests", "benchmarks", "tools"):
    for p in sorted((root / d).glob("*.py")):
        s = p.read_text(); n = ren(s, p.stem in TESTS)
        if n != s: p.write_text(n); print("changed", p.name)
