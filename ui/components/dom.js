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

// What a person chooses faster than the page answers. A view that has not heard the last choice says nothing about any:
// it would undo the newer one. The page repeats the `number` of the choice that it heard last as `heard`.
function chooser(send) {
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
