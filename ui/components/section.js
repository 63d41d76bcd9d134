// A section that can be folded away: fields in groups, or a table.
export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  let recalled = false
  let armed = null
  let place = ""

  const title = el("span")
  const toggle = el("button", {type: "button", class: "fold", "aria-controls": "body", onclick: () => {
    const open = toggle.getAttribute("aria-expanded") !== "true"
    remember(place, open ? "open" : "closed")
    act({type: "toggle", open})
  }}, title)
  const summary = el("span", {class: "summary quiet"})
  const tools = el("div", {class: "tools"})
  const refusal = el("div", {class: "notice warn", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", class: "text", onclick: () => act({type: "dismiss"})}, "Close"))
  const notice = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const note = el("p", {class: "note quiet", role: "status", hidden: true})
  const bones = el("div", {class: "bones", role: "status", "aria-label": "Loading"},
    ...Array.from({length: 3}, () => el("div", {class: "bone"})))
  const groups = el("div", {class: "groups"})
  const table = el("div", {class: "table"})
  const more = el("button", {type: "button", class: "more", onclick: () => act({type: "more"})}, "Show older")
  const body = el("div", {class: "body", id: "body", hidden: true}, refusal, notice, note, bones, groups, table, more)

  const drawTools = part(tools, (list, node) => {
    const focused = view.shadow_el.activeElement?.dataset?.name
    node.replaceChildren(...list.map((tool) => {
      if (tool.href) return el("a", {class: "button", href: tool.href, "data-name": tool.name}, tool.label)
      if (tool.copy) return copyButton(tool.label, () => ({content: tool.copy}), {"data-name": tool.name})
      return el("button", {
        type: "button", class: tool.busy ? "spin" : "", disabled: !tool.enabled, "data-name": tool.name, title: tool.title,
        onclick: () => act({type: "tool", name: tool.name}),
      }, tool.label)
    }))
    if (focused) node.querySelector(`[data-name="${focused}"]`)?.focus()
  })

  const drawField = (field) => el("div",
    {class: field.differs ? "field differs" : "field", title: field.help, "data-field": field.name},
    el("dt", {}, field.label, field.differs ? el("span", {class: "mark", role: "img", "aria-label": "not the default"}) : null),
    el("dd", {class: field.set ? "" : "quiet"},
      field.value, field.unit ? el("span", {class: "quiet"}, ` ${field.unit}`) : null))
  const drawGroups = part(groups, (list, node) => node.replaceChildren(...list.map((group) => el("div", {},
    el("h3", {}, group.title), el("dl", {}, ...group.fields.map(drawField))))))

  // The first click asks, the second does it; looking elsewhere takes the question back.
  const rowButton = (row, action) => {
    const key = `${row.key} ${action.name}`
    if (action.href) {
      return el("a", {class: "button small", href: action.href, download: true, "data-key": key, "aria-label": action.title}, action.label)
    }
    const button = el("button", {type: "button", class: "small", "data-key": key, "aria-label": action.title, title: action.title})
    const say = () => {
      setText(button, armed === key ? action.sure : action.label)
      setClass(button, armed === key ? "small danger" : "small")
      button.setAttribute("aria-label", armed === key ? `${action.title}: really?` : action.title)
    }
    const disarm = () => {
      if (armed === key && button.isConnected) {
        armed = null
        say()
      }
    }
    button.addEventListener("click", () => {
      if (action.sure && armed !== key) {
        armed = key
        say()
        button.focus()
        return
      }
      disarm()
      act({type: "row", name: action.name, key: row.key})
    })
    button.addEventListener("blur", disarm)
    button.addEventListener("keydown", (event) => { if (event.key === "Escape") disarm() })
    say()
    return button
  }
  const cell = (column, value) => el("td", {class: `c-${column.key} ${column.align ?? ""}`, "data-label": column.label},
    value.mark ? el("span", {class: "status done best", title: value.mark.title}, `${value.mark.label} `) : null,
    value.time ? clock(value.time, true).slice(0, -4) : value.text, value.quiet ? el("span", {class: "quiet"}, ` ${value.quiet}`) : null)
  const drawTable = part(table, (list, node) => {
    const focused = view.shadow_el.activeElement?.dataset?.key
    const asked = armed
    const withActions = list.rows.some((row) => row.actions.length)
    node.replaceChildren(el("table", {"aria-label": list.name},
      el("thead", {}, el("tr", {}, ...list.columns.map((column) => el("th", {scope: "col", class: column.align ?? ""}, column.label)),
        withActions ? el("th", {scope: "col", class: "end"}, el("span", {class: "unseen"}, "Actions")) : null)),
      el("tbody", {}, ...list.rows.map((row) => el("tr", {title: row.tip},
        ...list.columns.map((column) => cell(column, row.cells[column.key])),
        withActions ? el("td", {class: "actions"}, ...row.actions.map((action) => rowButton(row, action))) : null)))))
    // The button that is drawn anew asks what the one before it asked.
    armed = asked
    if (focused) node.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus()
  })

  listen(model, view, {show: ({view: section}) => {
    place = `${section.place}:${section.key}`
    setText(title, section.title)
    setText(summary, section.summary)
    toggle.setAttribute("aria-expanded", String(section.open))
    body.hidden = !section.open
    tools.hidden = !section.open
    drawTools(section.tools)
    refusal.hidden = !section.refusal
    setText(refusal.firstChild, section.refusal)
    notice.hidden = !section.failed
    setText(notice.firstChild, section.failed)
    note.hidden = !section.note
    setText(note, section.note)
    bones.hidden = !section.loading
    groups.hidden = !section.groups
    if (section.groups) drawGroups(section.groups)
    table.hidden = !section.table?.rows.length
    if (section.table) drawTable(section.table)
    more.hidden = !section.more
    if (!recalled) {
      recalled = true
      if (!section.open && recall(place) === "open") act({type: "toggle", open: true})
    }
  }})
  return el("section", {class: "surface"},
    el("div", {class: "top"}, el("h2", {}, toggle), summary, tools), body)
}
