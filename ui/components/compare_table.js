// Compared runs: a column for each, a row for each figure or field.
export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  const title = el("h2")
  const summary = el("span", {class: "summary quiet"})
  const every = el("input", {type: "checkbox", onchange: () => act({type: "all", on: every.checked})})
  const all = el("label", {class: "check", hidden: true}, every, "Every field")
  const note = el("p", {class: "note quiet", role: "status", hidden: true})
  const box = el("div", {class: "scroll", tabindex: 0, role: "region"})
  const drawTable = part(box, ({heads, rows, name}, node) => {
    node.setAttribute("aria-label", name)
    const focused = view.shadow_el.activeElement?.dataset?.key
    node.replaceChildren(el("table", {"aria-label": name, style: `--columns: ${heads.length}`},
      el("thead", {}, el("tr", {}, el("td"), ...heads.map((head) => {
        const swatch = el("i", {class: `swatch ${head.dash}`})
        swatch.style.setProperty("--line-colour", head.colour)
        return el("th", {scope: "col", class: head.faded ? "faded" : head.selected ? "chosen" : ""},
          el("button", {type: "button", class: "pick", "data-key": head.key, "aria-pressed": String(head.selected), title: head.label,
            onclick: () => act({type: "select", key: head.key})}, swatch, el("span", {class: "label"}, head.label)))
      }))),
      el("tbody", {}, ...rows.map((row) => el("tr", {"data-row": row.name, class: row.differs === false ? "same" : ""},
        el("th", {scope: "row", title: row.help}, row.label, row.unit ? el("span", {class: "quiet"}, ` ${row.unit}`) : null),
        ...row.cells.map((cell, index) => el("td", {
          class: `${heads[index].faded ? "faded" : heads[index].selected ? "chosen" : ""} ${cell.best ? "best" : ""} ${cell.quiet ? "quiet" : ""}`,
          title: cell.title,
        }, cell.tone ? el("span", {class: `status ${cell.tone}`}, cell.text) : cell.text,
        cell.best ? el("span", {class: "unseen"}, " (best)") : null)))))))
    if (focused) node.querySelector(`[data-key="${focused}"]`)?.focus()
  })
  listen(model, view, {show: ({view: table}) => {
    setText(title, table.title)
    setText(summary, table.summary)
    all.hidden = table.every == null
    every.checked = table.every === true
    note.hidden = !table.note
    setText(note, table.note)
    box.hidden = !table.rows.length
    drawTable({heads: table.heads, rows: table.rows, name: table.title})
  }})
  return el("section", {class: "surface"}, el("div", {class: "top"}, title, summary, all), note, box)
}
