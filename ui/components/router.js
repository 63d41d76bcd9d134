// The page's address. Links to a query lead there in place; back and forward do too; Python can change it.
export function render({model, view}) {
  // What the server says of an address that has been left since comes too late.
  let at = null
  const moved = () => {
    at = (at ?? 0) + 1
    model.send_msg({type: "moved", url: location.search, number: at})
  }

  // An empty query would leave the old one standing.
  const address = (url) => url.length > 1 ? url : location.pathname

  const followed = (event) => {
    if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return
    const anchor = event.composedPath().find((node) => node.localName === "a")
    const href = anchor?.getAttribute("href")
    if (!href || anchor.target || !(href.startsWith("?") || href === "./")) return
    event.preventDefault()
    history.pushState(null, "", address(href === "./" ? "" : href))
    moved()
  }

  view.studio_leave?.()
  addEventListener("popstate", moved)
  addEventListener("click", followed)
  view.studio_leave = () => {
    removeEventListener("popstate", moved)
    removeEventListener("click", followed)
  }

  listen(model, view, {
    push: ({url}) => history.pushState(null, "", address(url)),
    replace: ({url, number}) => {
      if (at === null || number === at) history.replaceState(null, "", address(url))
    },
    title: ({title}) => { document.title = title },
    theme: ({cookie, theme}) => {
      document.cookie = `${cookie}=${theme}; max-age=31536000; samesite=strict`
    },
  })
  return el("span", {hidden: true})
}
