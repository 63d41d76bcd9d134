// Shared by every component. Text from elsewhere only ever becomes text nodes and attributes, never markup.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value)
    else node.setAttribute(name, value === true ? "" : value)
  }
  node.append(...children.filter((child) => child != null))
  return node
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text
}

function setClass(node, name) {
  if (node.className !== name) node.className = name
}

// Calls `draw(value, node)` only when the value is another one, so that focus and selection survive an update.
function part(node, draw) {
  let last
  return (value) => {
    const now = JSON.stringify(value)
    if (now === last) return
    last = now
    draw(value, node)
  }
}

// Makes these the node's children, in this order, and moves only those that are not in their places. The focus stays where
// it is.
function place(node, wanted) {
  const focused = node.getRootNode().activeElement
  const kept = new Set(wanted)
  // First: what stands behind something that goes does not have to be moved.
  for (const child of [...node.children]) if (!kept.has(child)) child.remove()
  wanted.forEach((child, index) => {
    if (node.children[index] !== child) node.insertBefore(child, node.children[index] ?? null)
  })
  // What is moved loses it.
  if (focused && node.contains(focused) && node.getRootNode().activeElement !== focused) focused.focus({preventScroll: true})
}

// Rows of a list, each made once (`make(id)` gives its `root`, and `update(value)`) and then only brought up to date.
function keyed(node, make) {
  const known = new Map()
  return (values) => {
    for (const value of values) {
      if (!known.has(value.id)) known.set(value.id, make(value.id))
      known.get(value.id).update(value)
    }
    place(node, values.map(({id}) => known.get(id).root))
    const ids = new Set(values.map(({id}) => id))
    for (const id of known.keys()) if (!ids.has(id)) known.delete(id)
  }
}

// A search that is told once the typing pauses. `show(q)` brings it up to date, unless somebody is typing.
function searchBox(view, label, placeholder, search) {
  let typing = null
  const box = el("input", {type: "search", placeholder, "aria-label": label, maxlength: 200, oninput: () => {
    clearTimeout(typing)
    typing = setTimeout(() => {
      typing = null
      search(box.value)
    }, 250)
  }})
  return {box, show(q) {
    // What was typed and not told yet is newer than what comes.
    if (typing === null && view.shadow_el.activeElement !== box && box.value !== q) box.value = q
  }}
}

// A select whose options come with the view.
function chooser(label, change) {
  const box = el("select", {"aria-label": label, onchange: () => change(box.value)})
  const draw = part(box, (options, node) => node.replaceChildren(...options.map(([value, said]) => el("option", {value}, said))))
  return {box, show(options, chosen) {
    draw(options)
    box.value = chosen
  }}
}

// A box that says something and is away while there is nothing to say.
function notice(kind, ...buttons) {
  const text = el("span")
  const box = el("div", {class: `notice ${kind}`, role: ["bad", "warn"].includes(kind) ? "alert" : "status", hidden: true}, text, ...buttons)
  return {box, show(said) {
    box.hidden = !said
    setText(text, said ?? "")
  }}
}

// What stands in for content that is still being loaded.
function bones(count) {
  return el("div", {class: "bones", "aria-hidden": "true"}, ...Array.from({length: count}, () => el("div", {class: "bone"})))
}

// A dialog over the page. `show(next)` opens it anew for every other `next.opened` (`fill` puts in what is to be seen
// then), brings it up to date (`update`), and closes it where there is nothing.
function modal(label, cancel, content, {fill, update, wide = false}) {
  const box = el("dialog", {"aria-label": label, class: wide ? "wide" : null, oncancel: (event) => {
    event.preventDefault()
    cancel()
  }, onclose: () => {
    // A browser does not let itself be kept from closing it for ever.
    if (opened) cancel()
  }}, content)
  let opened = null
  return {box, show(next) {
    if (!next) {
      opened = null
      if (box.open) box.close()
      return
    }
    const anew = next.opened !== opened
    opened = next.opened
    if (anew) fill?.(next)
    update(next)
    if (anew) {
      if (!box.open) box.showModal()
      const first = box.querySelector("[data-first]")
      first?.focus()
      first?.select?.()
    }
  }}
}

// The dialog that asks for a template's name and description; a failed save leaves what was typed.
function templateDialog(title, confirmLabel, id, {save, cancel, more = []}) {
  const name = el("input", {id: `${id}-name`, type: "text", maxlength: 300, autocomplete: "off", "data-first": ""})
  const description = el("textarea", {id: `${id}-description`, rows: 5})
  const nameProblem = el("p", {class: "problem", id: `${id}-name-problem`})
  name.setAttribute("aria-describedby", nameProblem.id)
  const problem = el("p", {class: "problem", role: "alert"})
  const confirm = el("button", {type: "submit", class: "main"}, confirmLabel)
  return modal(title, cancel, el("form", {method: "dialog", onsubmit: (event) => {
    event.preventDefault()
    save(name.value, description.value)
  }}, el("h2", {}, title), el("label", {for: name.id}, "Name"), name, nameProblem,
  el("label", {for: description.id}, "Description"), description, problem,
  el("div", {class: "buttons"}, ...more, el("span", {class: "space"}),
    el("button", {type: "button", onclick: cancel}, "Cancel"), confirm)), {
    fill(next) {
      name.value = next.name
      description.value = next.description
    },
    update(next) {
      confirm.disabled = next.busy
      setText(nameProblem, next.name_problem)
      name.setAttribute("aria-invalid", String(Boolean(next.name_problem)))
      setText(problem, next.problem)
    },
  })
}

// A button that opens a list of further buttons and links. It closes with Escape, a click elsewhere, or a choice.
function menu(label, ...items) {
  const button = el("button", {type: "button", class: "icon", title: label, "aria-label": label, "aria-haspopup": "true"}, "⋯")
  const list = el("div", {class: "menu", popover: "auto", onclick: () => list.hidePopover(),
    onkeydown: (event) => {
      const step = {ArrowDown: 1, ArrowUp: -1}[event.key]
      if (!step) return
      event.preventDefault()
      const at = items.indexOf(event.target)
      items[(at + step + items.length) % items.length].focus()
    },
    onbeforetoggle: (event) => {
      if (event.newState !== "open") return
      const {top, right, bottom} = button.getBoundingClientRect()
      const below = innerHeight - bottom > 40 * items.length + 20
      Object.assign(list.style, {right: `${document.documentElement.clientWidth - right}px`,
        top: below ? `${bottom + 4}px` : "auto", bottom: below ? "auto" : `${innerHeight - top + 4}px`})
      // It stays where it was opened: what it belongs to would move away from under it.
      addEventListener("scroll", () => list.hidePopover(), {capture: true, once: true, passive: true})
    },
    ontoggle: (event) => { if (event.newState === "open") items[0].focus() },
  }, ...items)
  button.popoverTargetElement = list
  return {root: el("span", {}, button, list), button}
}

// What a person chooses faster than the page answers. A view that has not heard the last choice says nothing about any:
// it would undo the newer one. The page repeats the `number` of the choice that it heard last as `heard`.
function lastChoice(send) {
  let last = 0
  return {
    choose: (choices) => send({type: "choose", ...choices, number: ++last}),
    knows: ({heard}) => last === 0 || heard === last,
  }
}

// A component may be drawn more than once; only its newest drawing listens.
function listen(model, view, handlers) {
  if (view.studio_listener) model.off("msg:custom", view.studio_listener)
  view.studio_listener = (message) => handlers[message.type]?.(message)
  model.on("msg:custom", view.studio_listener)
  model.send_msg({type: "ready"})
}

function clock(us, withDate) {
  const time = new Date(us / 1000)
  const pad = (number, digits = 2) => String(number).padStart(digits, "0")
  const day = `${time.getFullYear()}-${pad(time.getMonth() + 1)}-${pad(time.getDate())} `
  return (withDate ? day : "")
    + `${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}.${pad(time.getMilliseconds(), 3)}`
}

// What this tab remembers of a page over a reload. Without storage (a private window may have none) it forgets.
function recall(key) {
  try {
    return sessionStorage.getItem(`saestudio:${key}`)
  } catch {
    return null
  }
}

function remember(key, value) {
  try {
    sessionStorage.setItem(`saestudio:${key}`, value)
  } catch {
    // Forgotten: the page is as it is for who comes first.
  }
}

// Away from localhost a page without TLS has no clipboard; what is selected in a field can still be copied.
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    const field = el("textarea", {"aria-hidden": "true", style: "position: fixed; opacity: 0"})
    field.value = text
    document.body.append(field)
    field.select()
    const copied = document.execCommand("copy")
    field.remove()
    return copied
  }
}

// A button that copies what `text()` gives and says in its own place, for a moment, what became of it.
function copyButton(label, text, attributes = {}) {
  let back = null
  // Not a status: that would take the button's name from it.
  const said = el("span", {"aria-live": "polite"}, label)
  const button = el("button", {type: "button", ...attributes, onmousedown: (event) => event.preventDefault(),
    onclick: async () => {
      const {content, done = "Copied"} = text()
      button.style.minWidth = `${button.offsetWidth}px`
      const copied = await toClipboard(content)
      button.focus()
      setText(said, copied ? done : "Not copied")
      clearTimeout(back)
      back = setTimeout(() => setText(said, label), 2000)
    }}, said)
  return button
}
