"""`given` -> `pending` in calls and definitions of selectors (not `Round.given`, `--given`): python rename_pending.py ROOT. Can be run again."""
import json, re, sys
from pathlib import Path
root = Path(sys.argv[1])
LOW = ("03", "04_", "04a", "05", "07")
def line(l, low):
    if re.search(r"compute_axes|compute_mutual|Round\(|get_method\(|select_batch\(|batchbald_select|def round|tell\(", l): return l
    l = re.sub(r"\bgiven=round\.given\b", "pending=round.given", l)
    if low or re.search(r"\bget_\w+_batch\(|\bselect\(|distributed\(|def greedy|brute_search", l):
        l = re.sub(r"\bgiven=", "pending=", l)
    return l
for p in sorted((root / "nbs").glob("*.ipynb")):
    text = p.read_text(); nb = json.loads(text); low = p.name.startswith(LOW)
    for c in nb["cells"]:
        s = old = "".join(c["source"])
        if c["cell_type"] == "code":
            if low and re.search(r"^#\s*\|\s*export", s, re.M):
                s = re.sub(r"(?<!what is )(?<!of a )(?<!is )\bgiven\b(?! candidate)", "pending", s)
            else: s = "\n".join(line(l, low and "get_" in l or p.name.startswith(("91", "index")) ) for l in s.split("\n"))
        if low and c["cell_type"] == "markdown": s = s.replace("`given`", "`pending`")
        if s != old: c["source"] = s.splitlines(True)
    new = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
    if new != text: p.write_text(new); print("changed", p.name)
