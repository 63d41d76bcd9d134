// The links of the page's head.
const LINKS = [
  ["trainings", "./", "Trainings"], ["compare", "?page=compare", "Compare"], ["templates", "?page=templates", "Templates"],
  ["catalogue", "?page=catalogue", "Catalogue"], ["sql", "?page=sql", "SQL"], ["new", "?page=new", "New training"],
]

export function render({model, view}) {
  const links = LINKS.map(([page, href, label]) => el("a", {href, "data-page": page, class: page === "new" ? "new" : null}, label))
  const nav = el("nav", {"aria-label": "Pages"}, ...links)
  listen(model, view, {show: ({view: {page}}) => {
    for (const link of links) {
      if (link.dataset.page === page) {
        link.setAttribute("aria-current", "page")
        nav.scrollLeft = link.offsetLeft - (nav.clientWidth - link.offsetWidth) / 2
      } else link.removeAttribute("aria-current")
    }
  }})
  return nav
}
