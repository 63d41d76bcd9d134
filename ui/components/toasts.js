// What happens meanwhile, said for a moment at the edge of the page, whichever page that is.
const MOST = 4

export function render({model, view}) {
  const list = el("section", {"aria-label": "News", "aria-live": "polite", "aria-relevant": "additions"})

  const add = ({tone, title, text, href, label, seconds}) => {
    let timer = null
    const leave = () => {
      clearTimeout(timer)
      item.remove()
    }
    const wait = () => {
      clearTimeout(timer)
      // Nothing goes away under the eyes or hands of who is at it.
      if (seconds) timer = setTimeout(() => item.matches(":hover, :focus-within") ? wait() : leave(), seconds * 1000)
    }
    const item = el("div", {
      class: `toast ${tone}`, "data-seconds": seconds || null, onpointerleave: wait, onfocusout: wait,
    }, el("div", {class: "said"}, el("strong", {}, title), text ? el("span", {}, text) : null),
    href ? el("a", {class: "button small", href, onclick: leave, "aria-label": `${label}: ${title}`}, label) : null,
    el("button", {type: "button", class: "text small", "aria-label": "Dismiss", onclick: leave}, "×"))
    list.append(item)
    // The oldest gives way, but not what stays until it is dismissed; the new one is to be seen in any case.
    const others = [...list.children].slice(0, -1)
    if (others.length >= MOST) (others.find(({dataset}) => dataset.seconds) ?? others[0]).remove()
    wait()
  }

  listen(model, view, {toast: ({toast}) => add(toast)})
  return list
}
