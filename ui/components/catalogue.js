// The catalogue: models, data sets, what each is used by, and the dialog that registers another.
const SECTIONS = {
  model: {list: "models", title: "Models", register: "Register a model…",
    none: "Register a language model by its hub id or by a folder, and it can be chosen by name."},
  dataset: {list: "datasets", title: "Data sets", register: "Register a data set…",
    none: "Register text by its hub id, or by a file or folder, and it can be chosen by name."},
}

export function render({model, view}) {
  const act = (message) => model.send_msg(message)
  const undo = el("button", {type: "button", onclick: () => act({type: "undo"})}, "Undo")
  const said = notice("plain", undo, el("button", {type: "button", class: "text", onclick: () => act({type: "dismiss"})}, "Close"))
  const failed = notice("bad", el("button", {type: "button", onclick: () => act({type: "retry"})}, "Retry"))
  const sections = Object.entries(SECTIONS).map(([kind, about]) => section(act, kind, about))
  const registering = registerDialog(act)

  listen(model, view, {show: ({view: page}) => {
    failed.show(page.failed)
    said.show(page.said)
    undo.hidden = !page.undo
    setClass(said.box, `notice ${page.tone || "plain"}`)
    for (const one of sections) one.show(page)
    registering.show(page.register)
  }})
  return el("div", {class: "page"},
    el("div", {class: "head"}, el("h1", {}, "Catalogue"),
      el("p", {class: "quiet"}, "What can be chosen by name in a configuration. A hub id or a path that is not here can be used as well.")),
    failed.box, said.box, ...sections.map(({root}) => root), registering.box)
}

function section(act, kind, {list, title, register, none}) {
  const rows = el("ul", {class: "rows"})
  const draw = keyed(rows, (id) => {
    const name = el("span", {class: "name"}, id)
    const heading = el("span", {class: "quiet"})
    const tag = el("span", {class: "tag"})
    const facts = el("p", {class: "facts"})
    const source = el("code", {class: "source"})
    const stand = el("p", {class: "quiet stand"})
    const uses = el("p", {class: "uses"})
    const drawUses = part(uses, (links, node) => node.replaceChildren(...(links.length
      ? [el("span", {class: "quiet"}, "Used by"), ...links.map(({label, href}) => el("a", {href}, label))]
      : [el("span", {class: "quiet"}, "Not used yet")])))
    const use = el("a", {class: "button", "aria-label": `Use ${id} in a new training`}, "Use")
    const remove = el("button", {type: "button", class: "text", "aria-label": `Remove ${id} from the catalogue`,
      onclick: () => act({type: "remove", kind, id})}, "Remove")
    const root = el("li", {class: "row"},
      el("div", {class: "what"}, el("div", {class: "title"}, name, heading, tag), facts, source, el("div", {class: "last"}, uses, stand)),
      el("div", {class: "buttons"}, remove, use, el("button", {type: "button", "aria-label": `Check ${id} again`,
        onclick: () => act({type: "again", kind, id})}, "Check again")))
    return {root, update(entry) {
      setText(heading, entry.title)
      setText(tag, entry.tag)
      tag.hidden = !entry.tag
      setText(facts, entry.facts)
      setText(source, entry.source)
      source.hidden = !entry.source
      setText(stand, [entry.registered, entry.revision].filter(Boolean).join(" · "))
      drawUses(entry.uses)
      use.setAttribute("href", entry.use)
      remove.hidden = !entry.removable
    }}
  })
  const wait = bones(2)
  const count = el("span", {class: "quiet"})
  const empty = el("p", {class: "quiet empty"}, none)
  const root = el("section", {class: "surface", "aria-label": title},
    el("div", {class: "top"}, el("h2", {}, title), count, el("span", {class: "space"}),
      el("button", {type: "button", onclick: () => act({type: "register", kind})}, register)), wait, rows, empty)
  return {root, show(page) {
    const entries = page[list]
    wait.hidden = !page.loading
    rows.hidden = !entries?.length
    empty.hidden = !entries || entries.length > 0
    setText(count, entries ? String(entries.length) : "")
    if (entries) draw(entries)
  }}
}

function registerDialog(act) {
  const title = el("h2", {})
  const main = el("div", {class: "grid"})
  const others = el("div", {class: "grid"})
  const more = el("details", {}, el("summary", {}, "More"), others)
  const problem = notice("bad")
  const doing = el("p", {class: "quiet doing spin", role: "status"})
  const known = el("p", {class: "quiet"})
  const list = el("ul", {class: "found-facts"})
  const found = el("div", {class: "found", role: "status"}, el("p", {class: "status good"}, "It loads"), list, known)
  const drawFound = part(list, (parts, node) => node.replaceChildren(...parts.map((one) => el("li", {}, one))))
  const check = el("button", {type: "submit", class: "main"}, "Check")
  const confirm = el("button", {type: "button", class: "main", onclick: () => act({type: "register_now"})}, "Register")
  let fields = []
  let shown = null

  function makeField({name, label, help}) {
    const id = `register-${name}`
    const wrong = el("p", {class: "problem", id: `${id}-problem`})
    const hint = el("p", {class: "quiet hint", id: `${id}-hint`}, help)
    const box = el("input", {id, type: "text", autocomplete: "off", spellcheck: "false", maxlength: 4096, "data-first": name === "source" ? "" : null,
      "aria-describedby": `${id}-problem ${id}-hint`, oninput: () => {
        // What was found is not what stands there any more.
        if (shown.found || shown.doing || shown.problem || Object.keys(shown.problems).length) act({type: "changed"})
      }})
    return {name, box, wrong, root: el("div", {class: "field"}, el("label", {for: id}, label), box, wrong, hint)}
  }

  return modal("Register", () => act({type: "register_cancel"}), el("form", {method: "dialog", onsubmit: (event) => {
    event.preventDefault()
    if (check.disabled || check.hidden) return
    act({type: "check", values: Object.fromEntries(fields.map(({name, box}) => [name, box.value]))})
  }}, title, main, more, problem.box, doing, found,
  el("div", {class: "buttons"}, el("span", {class: "space"}),
    el("button", {type: "button", onclick: () => act({type: "register_cancel"})}, "Cancel"), check, confirm)), {
    fill(next) {
      fields = next.fields.map(makeField)
      main.replaceChildren(...fields.slice(0, 2).map(({root}) => root))
      others.replaceChildren(...fields.slice(2).map(({root}) => root))
      for (const {name, box} of fields) box.value = next.given[name] ?? ""
      more.open = false
    },
    update(next) {
      const before = shown
      shown = next
      setText(title, `Register a ${next.noun}`)
      for (const {name, box, wrong} of fields) {
        setText(wrong, next.problems[name] ?? "")
        box.setAttribute("aria-invalid", String(Boolean(next.problems[name])))
      }
      if (fields.slice(2).some(({name}) => next.problems[name])) more.open = true
      problem.show(next.problem)
      doing.hidden = !next.doing
      setText(doing, next.doing)
      found.hidden = !next.found
      if (next.found) {
        drawFound([next.found.title, ...next.found.facts].filter(Boolean))
        setText(known, next.found.known
          ? `${next.found.id} is registered already; registering it again replaces what is known of it.`
          : `It will be called ${next.found.id}.`)
      }
      check.hidden = Boolean(next.found)
      check.disabled = Boolean(next.doing)
      confirm.hidden = !next.found
      confirm.disabled = Boolean(next.doing)
      setText(confirm, next.found?.known ? "Register again" : "Register")
      if (next.found && !before?.found) confirm.focus()
    },
  })
}
