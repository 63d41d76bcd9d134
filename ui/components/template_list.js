// The whole list of templates as one component: search, rows, what there is to say, and the dialog that edits one.
export function render({model, view}) {
  const act = (message) => model.send_msg(message)

  let typing = null
  const search = el("input", {
    type: "search", placeholder: "Search name, description, model", "aria-label": "Search templates", maxlength: 200,
    oninput: () => {
      clearTimeout(typing)
      typing = setTimeout(() => act({type: "search", q: search.value}), 250)
    },
  })

  const body = el("ul", {class: "rows"})
  const rows = new Map()
  function makeRow(id) {
    const encoded = encodeURIComponent(id)
    const star = el("button", {type: "button", class: "icon star", onclick: () => act({type: "favourite", template: id})})
    const name = el("a", {class: "name", href: `?page=new&template=${encoded}&fresh=1`})
    const tags = el("span", {class: "tags"})
    const description = el("p", {class: "description"})
    const changed = el("p", {class: "quiet changed"})
    const button = (type, label, tone = "") => el("button", {type: "button", class: tone, onclick: () => act({type, template: id})}, label)
    const use = el("a", {class: "button main", href: `?page=new&template=${encoded}&fresh=1`}, "Use")
    const remove = button("delete", "Delete", "danger")
    const row = el("li", {class: "row"}, star, el("div", {class: "what"}, el("div", {class: "title"}, name, tags), description, changed),
      el("div", {class: "buttons"}, use, button("edit", "Edit"), button("duplicate", "Duplicate"), remove))
    const drawTags = part(tags, (list, node) => node.replaceChildren(...list.map((tag) => el("span", {class: "tag", title: tag}, tag))))
    return {row, update(value) {
      setText(name, value.name)
      name.title = value.name
      setText(star, value.favourite ? "★" : "☆")
      star.setAttribute("aria-pressed", String(value.favourite))
      star.setAttribute("aria-label", `Favourite ${value.name}`)
      use.setAttribute("aria-label", `Use ${value.name}`)
      setText(description, value.description)
      setText(changed, value.changed)
      drawTags(value.tags)
    }}
  }

  const said = el("div", {class: "notice said", role: "status", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "undo"})}, "Undo"),
    el("button", {type: "button", class: "text", onclick: () => act({type: "dismiss"})}, "Close"))
  const notice = el("div", {class: "notice bad", role: "alert", hidden: true}, el("span"),
    el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const bones = el("div", {class: "bones", "aria-hidden": "true"}, ...Array.from({length: 4}, () => el("div", {class: "bone"})))
  const empty = el("div", {class: "empty", hidden: true})
  const drawEmpty = part(empty, (searching, node) => node.replaceChildren(...(searching
    ? [el("h2", {}, "No template matches"), el("p", {class: "quiet"}, "No template has these words.")]
    : [el("h2", {}, "No templates yet"),
      el("p", {class: "quiet"}, "A template keeps a whole configuration under a name. Fill in the form of a new training and save it."),
      el("a", {class: "button main", href: "?page=new"}, "New training")])))

  const name = el("input", {id: "name", type: "text", maxlength: 300, autocomplete: "off"})
  const nameProblem = el("p", {class: "problem", id: "name-problem"})
  name.setAttribute("aria-describedby", nameProblem.id)
  const description = el("textarea", {id: "description", rows: 5})
  const problem = el("p", {class: "problem", role: "alert"})
  const fields = el("a", {class: "button"}, "Edit its fields")
  const confirm = el("button", {type: "submit", class: "main"}, "Save")
  const dialog = el("dialog", {"aria-label": "Edit template", oncancel: (event) => {
    event.preventDefault()
    act({type: "cancel"})
  }}, el("form", {method: "dialog", onsubmit: (event) => {
    event.preventDefault()
    act({type: "save", name: name.value, description: description.value})
  }}, el("h2", {}, "Edit template"), el("label", {for: "name"}, "Name"), name, nameProblem,
  el("label", {for: "description"}, "Description"), description, problem,
  el("div", {class: "buttons"}, fields, el("span", {class: "space"}),
    el("button", {type: "button", onclick: () => act({type: "cancel"})}, "Cancel"), confirm)))
  let opened = null
  function drawDialog(next) {
    if (next && next.opened !== opened) {
      opened = next.opened
      name.value = next.name
      description.value = next.description
      fields.setAttribute("href", `?page=new&template=${encodeURIComponent(next.id)}&fresh=1`)
      dialog.showModal()
      name.focus()
    }
    if (!next && dialog.open) dialog.close()
    if (!next) return
    confirm.disabled = next.busy
    setText(nameProblem, next.name_problem)
    name.setAttribute("aria-invalid", String(Boolean(next.name_problem)))
    setText(problem, next.problem)
  }

  listen(model, view, {show: ({view: list}) => {
    notice.hidden = !list.failed
    setText(notice.firstChild, list.failed)
    said.hidden = !list.said
    setText(said.firstChild, list.said)
    said.children[1].hidden = !list.undo
    setClass(said, `notice said ${list.tone}`)
    bones.hidden = !list.loading
    drawDialog(list.edit)
    if (!list.rows) return
    if (view.shadow_el.activeElement !== search && search.value !== list.q) search.value = list.q
    const seen = new Set()
    list.rows.forEach((value, index) => {
      seen.add(value.id)
      if (!rows.has(value.id)) rows.set(value.id, makeRow(value.id))
      const {row, update} = rows.get(value.id)
      update(value)
      if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null)
    })
    for (const [id, {row}] of rows) {
      if (!seen.has(id)) {
        row.remove()
        rows.delete(id)
      }
    }
    body.hidden = !list.rows.length
    empty.hidden = list.rows.length > 0
    search.hidden = !list.rows.length && !list.searching
    drawEmpty(list.searching)
  }})
  return el("section", {class: "surface", "aria-label": "Templates"},
    el("div", {class: "top"}, el("h1", {}, "Templates"), search), notice, said, bones, body, empty, dialog)
}
