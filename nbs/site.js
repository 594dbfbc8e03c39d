// Both builders of the site load this. It asks for nothing and stores nothing; without it pages show the same text and pictures.

// A picture opens large on a click or on Enter. Where the window is narrow it keeps its own size there, and scrolls
function openLarge(picture) {
  const dialog = document.createElement("dialog"), large = new Image(), caption = document.createElement("p")
  dialog.className = "large"
  dialog.setAttribute("aria-label", "Picture, large")
  dialog.innerHTML = '<form method="dialog"><button autofocus>Close</button></form><div class="large-picture" tabindex="0"></div>'
  large.src = picture.src
  large.alt = picture.alt
  large.style.width = `${Math.max(picture.naturalWidth, Math.min(0.94 * innerWidth, 1.6 * picture.naturalWidth))}px`
  dialog.querySelector("div").append(large)
  caption.textContent = picture.alt
  dialog.append(caption)
  dialog.addEventListener("click", event => { if (event.target === dialog || event.target === large) dialog.close() })
  dialog.addEventListener("close", () => dialog.remove())
  document.body.append(dialog)
  dialog.showModal()
}

document.addEventListener("click", event => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
  const picture = event.target.closest("a.picture")?.querySelector("img") ?? event.target.closest(".cell-output-display img")
  if (!picture) return
  event.preventDefault()
  openLarge(picture)
})

// What is wider than its box scrolls with the keyboard too
function letScroll(box) {
  const scrolls = box.scrollWidth > box.clientWidth + 1
  box.classList.toggle("scrolls", scrolls)
  if (scrolls) box.tabIndex = 0
  else box.removeAttribute("tabindex")
}

// Equations wider than the page are written smaller, down to seven tenths
function fitEquations() {
  for (const box of document.querySelectorAll("mjx-container[display='true']")) {
    box.style.fontSize = ""
    const share = box.clientWidth / box.scrollWidth
    if (share < 1) box.style.fontSize = `${Math.max(0.7, 0.98 * share) * parseFloat(getComputedStyle(box).fontSize)}px`
  }
}

function fitToWidth() {
  fitEquations()
  document.querySelectorAll("mjx-container[display='true'], .table-wrapper, .table-responsive, .cell_output pre, .cell-output pre").forEach(letScroll)
}

addEventListener("load", async () => {
  await window.MathJax?.startup?.promise
  fitToWidth()
  addEventListener("resize", fitToWidth)
})
