// The links of the page's head.
const LINKS = [
  ["trainings", "./", "Trainings"], ["compare", "?page=compare", "Compare"], ["templates", "?page=templates", "Templates"],
  ["catalogue", "?page=catalogue", "Catalogue"],
  ["sql", "?page=sql", "SQL"], ["new", "?page=new", "New training"],
]

export function render({model, view}) {
  const links = LINKS.map(([page, href, label]) => el("a", {href, "data-page": page, class: page === "new" ? "new" : null}, label))
  listen(model, view, {show: ({view: {page}}) => {
    for (const link of links) {
      if (link.dataset.page === page) {
        link.setAttribute("aria-current", "page")
        link.scrollIntoView({block: "nearest", inline: "center"})
      }
      else link.removeAttribute("aria-current")
    }
  }})
  return el("nav", {"aria-label": "Pages"}, ...links)
}
