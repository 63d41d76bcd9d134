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
      if (seconds) timer = setTimeout(leave, seconds * 1000)
    }
    const item = el("div", {
      class: `toast ${tone}`,
      // Nothing goes away under the eyes or hands of who is at it.
      onpointerenter: () => clearTimeout(timer), onpointerleave: wait,
      onfocusin: () => clearTimeout(timer), onfocusout: wait,
    }, el("div", {class: "said"}, el("strong", {}, title), text ? el("span", {}, text) : null),
    href ? el("a", {class: "button small", href, onclick: leave, "aria-label": `${label}: ${title}`}, label) : null,
    el("button", {type: "button", class: "text small", "aria-label": "Dismiss", onclick: leave}, "×"))
    list.append(item)
    while (list.children.length > MOST) list.firstChild.remove()
    wait()
  }

  listen(model, view, {toast: ({toast}) => add(toast)})
  return list
}
