// Compared runs: a column for each, a row for each figure or field.
export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  const title = el("h2")
  const summary = el("span", {class: "summary quiet"})
  const every = el("input", {type: "checkbox", onchange: () => act({type: "all", on: every.checked})})
  const all = el("label", {class: "check", hidden: true}, every, "Every field")
  const note = el("p", {class: "note quiet", role: "status", hidden: true})
  const head = el("thead")
  const body = el("tbody")
  const grid = el("table", {}, head, body)
  const box = el("div", {class: "scroll", tabindex: 0, role: "region"}, grid)
  // Tables of the same lines have the same columns: a run stays below itself where they are scrolled.
  const together = (globalThis.studio_tables ??= new Set()).add(box)
  model.on("remove", () => together.delete(box))
  box.addEventListener("scroll", () => {
    for (const other of together) {
      if (!other.isConnected) together.delete(other)
      else if (Math.abs(other.scrollLeft - box.scrollLeft) > 1) other.scrollLeft = box.scrollLeft
    }
  })
  // Apart from the figures: those change all the time, and a click on a head that is drawn anew meanwhile would be lost.
  const drawHeads = part(head, (heads, node) => {
    grid.style.setProperty("--columns", heads.length)
    const focused = view.shadow_el.activeElement?.dataset?.key
    node.replaceChildren(el("tr", {}, el("td"), ...heads.map((one) => {
      const swatch = el("i", {class: `swatch ${one.dash}`})
      swatch.style.setProperty("--line-colour", one.colour)
      return el("th", {scope: "col", class: one.faded ? "faded" : one.selected ? "chosen" : ""},
        el("button", {type: "button", class: "pick", "data-key": one.key, "aria-pressed": String(one.selected), title: one.label,
          onclick: () => act({type: "select", key: one.key})}, swatch, el("span", {class: "label"}, one.label)))
    })))
    if (focused) node.querySelector(`[data-key="${focused}"]`)?.focus()
  })
  const drawRows = part(body, ({heads, rows}, node) => node.replaceChildren(
    ...rows.map((row) => el("tr", {"data-row": row.name, class: row.differs === false ? "same" : ""},
      el("th", {scope: "row", title: row.help}, row.label, row.unit ? el("span", {class: "quiet"}, ` ${row.unit}`) : null),
      ...row.cells.map((cell, index) => el("td", {
        class: `${heads[index].faded ? "faded" : heads[index].selected ? "chosen" : ""} ${cell.best ? "best" : ""} ${cell.quiet ? "quiet" : ""}`,
        title: cell.title,
      }, cell.tone ? el("span", {class: `status ${cell.tone}`}, cell.text) : cell.text,
      cell.best ? el("span", {class: "unseen"}, " (best)") : null))))))
  listen(model, view, {show: ({view: table}) => {
    setText(title, table.title)
    setText(summary, table.summary)
    all.hidden = table.every == null
    every.checked = table.every === true
    note.hidden = !table.note
    setText(note, table.note)
    box.hidden = !table.rows.length
    for (const named of [box, grid]) named.setAttribute("aria-label", table.title)
    drawHeads(table.heads.map(({key, label, colour, dash, selected, faded}) => ({key, label, colour, dash, selected, faded})))
    drawRows({heads: table.heads, rows: table.rows})
  }})
  return el("section", {class: "surface"}, el("div", {class: "top"}, title, summary, all), note, box)
}
