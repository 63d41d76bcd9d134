// A training's note: as the tree that Python makes of its Markdown, and the form that changes it.

const NOTE_TAGS = new Set(["p", "ul", "ol", "li", "blockquote", "hr", "br", "em", "strong", "s", "table", "thead", "tbody", "tr", "th",
  "td", "a", "code", "pre", "h3", "h4", "h5", "h6"])

function markdown(nodes) {
  return nodes.map((node) => {
    if (typeof node === "string") return node
    const outside = node.href && !node.href.startsWith("?")
    return el(NOTE_TAGS.has(node.tag) ? node.tag : "span", {href: node.href, start: node.start,
      target: outside ? "_blank" : null, rel: outside ? "noopener noreferrer" : null}, ...markdown(node.children))
  })
}

// `send(changes)` saves what differs, `leave()` gives up; `fill(values)` begins, `meanwhile(values)` tells of what others
// have made of it since, `answered(problem)` of what became of a save.
function noteForm({named, send, leave}) {
  let begun = {}
  const name = el("input", {type: "text", maxlength: 255, autocomplete: "off"})
  const note = el("textarea", {rows: 6, placeholder: "What is worth knowing about this run, in Markdown"})
  const problem = el("p", {class: "problem", role: "alert"})
  const save = el("button", {type: "submit", class: "small main"}, "Save")
  const busy = (on) => { save.disabled = name.readOnly = note.readOnly = on }
  const form = el("form", {class: "describe", onsubmit: (event) => {
    event.preventDefault()
    const changes = {}
    if (named && name.value.trim() !== begun.name) changes.name = name.value.trim()
    if (note.value !== begun.note) changes.note = note.value
    setText(problem, "")
    if (!Object.keys(changes).length) return leave()
    busy(true)
    send(changes)
  }, onkeydown: (event) => {
    if (event.key === "Escape") {
      event.stopPropagation()
      leave()
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit()
  }}, named ? el("label", {}, el("span", {}, "Name"), name) : null, el("label", {}, el("span", {}, "Note"), note), problem,
  el("div", {class: "answer"}, save, el("button", {type: "button", class: "small", onclick: () => leave()}, "Cancel")))
  return {
    form,
    fill: (values) => {
      begun = values
      name.value = values.name ?? ""
      note.value = values.note
      setText(problem, "")
      busy(false)
      const first = named ? name : note
      first.focus()
      if (named) name.select()
    },
    meanwhile: (values) => {
      if (values.note !== begun.note && !note.readOnly) {
        setText(problem, "Somebody has changed the note meanwhile; saving yours replaces it.")
      }
    },
    answered: (why) => {
      busy(false)
      setText(problem, why)
      note.focus()
    },
  }
}
