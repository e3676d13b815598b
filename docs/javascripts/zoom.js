// A click on a figure shows it as large as the window allows; another click, or Escape, closes it.
const dialog = document.createElement("dialog")
dialog.className = "zoom"
dialog.addEventListener("click", () => dialog.close())
document.body.append(dialog)
for (const image of document.querySelectorAll(".md-content img"))
  image.addEventListener("click", () => {
    const copy = image.cloneNode()
    dialog.replaceChildren(copy)
    dialog.showModal()
  })
