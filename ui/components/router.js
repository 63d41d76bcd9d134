// The page's address: Python pushes it, back and forward and links bring it back.
export function render({model, view}) {
  if (view.studio_popstate) removeEventListener("popstate", view.studio_popstate)
  view.studio_popstate = () => model.send_msg({type: "moved", url: location.search})
  addEventListener("popstate", view.studio_popstate)
  listen(model, view, {
    go: ({url, replace}) => {
      // An empty query would leave the old one standing.
      const target = url || location.pathname
      if (replace) history.replaceState(null, "", target)
      else history.pushState(null, "", target)
    },
    title: ({title}) => { document.title = title },
    theme: ({cookie, theme}) => {
      document.cookie = `${cookie}=${theme}; max-age=31536000; samesite=strict`
    },
  })
  return el("span", {hidden: true})
}
