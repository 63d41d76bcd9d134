// Whose line is which.
export function render({model, view}) {
  const title = el("h2")
  const lines = el("div", {class: "lines"})
  listen(model, view, {show: ({view: legend}) => {
    setText(title, legend.title)
    lines.replaceChildren(...legend.lines.map((line) => {
      const swatch = el("i", {class: line.dash})
      swatch.style.setProperty("--line-colour", line.colour)
      return el("span", {class: "line"}, swatch, line.label,
        line.status ? el("span", {class: `status ${line.tone}`}, line.status) : null)
    }))
  }})
  return el("section", {"aria-label": "Lines"}, title, lines)
}
