// The whole list of templates as one component: search, filters, rows, what is selected, what there is to say, and the dialogs.
export function render({model, view}) {
  const act = (message) => model.send_msg(message)

  // What is shown at all

  const search = searchBox(view, "Search templates", "Search name, description, model", (q) => act({type: "search", q}))
  const sort = chooser("Sort by", (value) => act({type: "sort", sort: value}))
  const filters = {
    architecture: chooser("Architecture", (key) => act({type: "filter", kind: "architecture", key})),
    model: chooser("Model", (key) => act({type: "filter", kind: "model", key})),
    dataset: chooser("Data set", (key) => act({type: "filter", kind: "dataset", key})),
  }
  const exportAll = el("a", {class: "button", download: "templates.json"}, "Export all")
  const picker = templateFile(act)
  const bar = el("div", {class: "second"}, ...Object.values(filters).map(({box}) => box), el("span", {class: "space"}), sort.box)

  // What is selected

  const count = el("span", {class: "count", role: "status"})
  const exportSelected = el("a", {class: "button small main", download: "templates.json"}, "Export")
  const selection = el("div", {class: "selection", hidden: true}, count, exportSelected,
    el("button", {type: "button", class: "text", onclick: () => act({type: "select", ids: shown, on: false})}, "Clear"))
  const all = el("input", {type: "checkbox", onchange: () => act({type: "select", ids: shown, on: all.checked})})
  let shown = []

  // The rows

  const body = el("ul", {class: "rows"})
  const drawRows = keyed(body, (id) => {
    const encoded = encodeURIComponent(id)
    const check = el("input", {type: "checkbox", onchange: () => act({type: "select", ids: [id], on: check.checked})})
    const star = el("button", {type: "button", class: "icon star", onclick: () => act({type: "favourite", template: id})})
    const name = el("a", {class: "name", href: `?page=new&template=${encoded}&fresh=1`})
    const tags = el("span", {class: "tags"})
    const description = el("p", {class: "description"})
    const changed = el("p", {class: "quiet changed"})
    const button = (type, label, tone = "") => el("button", {type: "button", class: tone, onclick: () => act({type, template: id})}, label)
    const use = el("a", {class: "button", href: `?page=new&template=${encoded}&fresh=1`}, "Use")
    const more = menu("More", button("duplicate", "Duplicate"), button("history", "History"),
      el("a", {class: "button", href: `api/v1/templates/export?ids=${encoded}`, download: ""}, "Export"),
      button("delete", "Delete", "danger"))
    const root = el("li", {class: "row"}, check, star,
      el("div", {class: "what"}, el("div", {class: "title"}, name, tags), description, changed),
      el("div", {class: "buttons"}, use, button("edit", "Edit"), more.root))
    const drawTags = part(tags, (list, node) => node.replaceChildren(...list.map(({kind, key, label}) => el("button", {
      type: "button", class: `tag ${kind}`, title: `Only ${key}`, onclick: () => act({type: "filter", kind, key})}, label))))
    return {root, update(value) {
      setText(name, value.name)
      name.title = value.name
      check.checked = value.selected
      check.setAttribute("aria-label", `Select ${value.name}`)
      root.classList.toggle("chosen", value.selected)
      setText(star, value.favourite ? "★" : "☆")
      star.setAttribute("aria-pressed", String(value.favourite))
      star.setAttribute("aria-label", `Favourite ${value.name}`)
      use.setAttribute("aria-label", `Use ${value.name}`)
      more.button.setAttribute("aria-label", `More for ${value.name}`)
      setText(description, value.description)
      setText(changed, value.changed)
      drawTags(value.tags)
    }}
  })

  const said = notice("said", el("button", {type: "button", onclick: () => act({type: "undo"})}, "Undo"),
    el("button", {type: "button", class: "text", onclick: () => act({type: "dismiss"})}, "Close"))
  const failed = notice("bad", el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const wait = bones(4)
  const empty = el("div", {class: "empty", hidden: true})
  const drawEmpty = part(empty, (searching, node) => node.replaceChildren(...(searching
    ? [el("h2", {}, "No template matches"), el("p", {class: "quiet"}, "No template has these words and tags."),
      el("button", {type: "button", onclick: () => act({type: "clear"})}, "Show all templates")]
    : [el("h2", {}, "No templates yet"),
      el("p", {class: "quiet"}, "A template keeps a whole configuration under a name. Fill in the form of a new training and save it, or import the file that another studio has exported."),
      el("p", {class: "buttons"}, el("a", {class: "button main", href: "?page=new"}, "New training"),
        el("button", {type: "button", onclick: () => picker.click()}, "Import…"))])))

  const fields = el("a", {class: "button"}, "Edit its fields")
  const editing = templateDialog("Edit template", "Save", "edit", {
    save: (name, description) => act({type: "save", name, description}), cancel: () => act({type: "cancel"}), more: [fields],
  })
  const importing = importDialog(act, () => picker.click())
  const past = historyDialog(act)

  listen(model, view, {show: ({view: list}) => {
    failed.show(list.failed)
    said.show(list.said)
    said.box.children[1].hidden = !list.undo
    setClass(said.box, `notice said ${list.tone}`)
    wait.hidden = !list.loading
    if (list.edit) fields.setAttribute("href", `?page=new&template=${encodeURIComponent(list.edit.id)}&fresh=1`)
    editing.show(list.edit)
    importing.show(list.import)
    past.show(list.history)
    exportAll.setAttribute("href", list.export)
    exportAll.hidden = !list.rows || (!list.rows.length && !list.searching)
    if (!list.rows) return
    search.show(list.q)
    sort.show(list.sorts, list.sort)
    for (const {kind, options, chosen} of list.filters) {
      filters[kind].show(options, chosen)
      setClass(filters[kind].box, chosen ? "on" : "")
    }
    shown = list.rows.map(({id}) => id)
    drawRows(list.rows)
    const number = list.rows.filter(({selected}) => selected).length
    all.checked = number > 0 && number === shown.length
    all.indeterminate = number > 0 && number < shown.length
    all.setAttribute("aria-label", `Select all ${shown.length}`)
    selection.hidden = !list.selection
    if (list.selection) {
      setText(count, list.selection.label)
      exportSelected.setAttribute("href", list.selection.export)
    }
    const none = !list.rows.length
    body.hidden = none
    empty.hidden = !none
    search.box.hidden = bar.hidden = none && !list.searching
    all.hidden = none
    drawEmpty(list.searching)
  }})
  bar.hidden = true
  return el("section", {class: "surface", "aria-label": "Templates"},
    el("div", {class: "top"}, el("h1", {}, "Templates"), search.box, el("span", {class: "space"}),
      el("div", {class: "buttons"}, el("button", {type: "button", onclick: () => picker.click()}, "Import…"), exportAll,
        el("a", {class: "button main", href: "?page=new"}, "New template"))),
    el("div", {class: "second"}, all, bar), picker, failed.box, said.box, selection, wait, body, empty,
    editing.box, importing.box, past.box)
}
