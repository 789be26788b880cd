/* Comforts that style sheets cannot give. Nothing is hidden from readers without JavaScript. */

const drawer = document.getElementById("__drawer")
const behind = () => document.querySelectorAll("#__drawer ~ *, .md-logo, .md-content, .md-sidebar--secondary, .md-footer")
const options = [...document.querySelectorAll(".md-option")]

// The menu opens with Enter as well, closes with Escape, and keeps the focus while it is open.
drawer.addEventListener("keydown", ({ key }) => key === "Enter" && drawer.click())
const shut = () => behind().forEach((part) => (part.inert = drawer.checked))
drawer.addEventListener("change", shut)
addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && drawer.checked) {
    drawer.click()
    drawer.focus()
  }
})

// The color schemes are radio buttons, of which the chosen one is seen: choosing it again goes on to the next, as Enter does.
let scheme
const nextScheme = () => {
  const next = options[(options.indexOf(scheme) + 1) % options.length]
  next.click()
  next.focus({ preventScroll: true })
}
for (const option of options) {
  option.addEventListener("change", () => (scheme = option))
  option.addEventListener("click", () => option === scheme && nextScheme())
}

// Formulas, figures and tables that fit need no scrolling, so the keyboard passes them by.
const fitting = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const box = target.parentElement
    if (box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0
      if (target.matches(".md-typeset__table")) Object.assign(box, { role: "group", ariaLabel: "Table" })
    } else box.removeAttribute("tabindex")
  }
})

// Material puts the buttons of each code block into a <nav>: a dozen nameless landmarks a page.
const quiet = () => document.querySelectorAll(".md-code__nav").forEach((nav) => (nav.role = "none"))
const quieting = new MutationObserver(quiet)

// Material calls this once the page is there.
document$.subscribe(() => {
  shut()
  scheme = options.find((option) => !option.nextElementSibling.hidden) // Material shows its label, but does not check it
  if (scheme) scheme.checked = true
  for (const part of document.querySelectorAll(".katex-display, .figure, .md-typeset__table")) fitting.observe(part)
  quieting.observe(document.querySelector("article"), { childList: true, subtree: true })
  quiet()
})

// A report names the section that was selected in, addressed, or, from beside the text, read.
const below = document.querySelector(".report")
const headings = [...document.querySelectorAll("article :is(h2, h3, h4)[id]")]
const sectionOf = (node) =>
  headings.filter((heading) => heading === node || heading.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING).pop()
const sectionRead = () => headings.find(({ id }) => document.querySelector(`.md-sidebar--secondary .md-nav__link--active[href="#${id}"]`))
const addressed = () => {
  const target = document.querySelector(":target")
  return target && sectionOf(target)
}
const reporting = (link, otherwise) => {
  const page = new URL(link.href)
  link.addEventListener("mousedown", (event) => event.preventDefault()) // in some browsers it ends the selection
  for (const press of ["click", "auxclick"])
    link.addEventListener(press, () => {
      const selection = getSelection()
      const selected = document.querySelector("article").contains(selection.anchorNode) ? `${selection}`.trim().slice(0, 500) : ""
      const section = selected ? sectionOf(selection.getRangeAt(0).startContainer) : otherwise()
      const report = new URL(page)
      const ask = (name, change) => report.searchParams.set(name, change(report.searchParams.get(name)))
      if (section) {
        const name = section.textContent.trim()
        ask("title", (title) => `${title}: ${name}`)
        ask("body", (body) => body.replace("\n", () => `\nSection: ${name} (#${section.id})\n`))
      }
      if (selected) ask("body", (body) => body.replace("\n\n", () => `\n\n${selected.replace(/^/gm, "> ")}\n\n`))
      link.href = report
    })
}
if (below) {
  const beside = below.cloneNode(true)
  beside.firstChild.textContent = "Report a problem in this section"
  document.querySelector(".md-sidebar--secondary .md-sidebar__inner").append(beside)
  reporting(below.firstChild, addressed)
  reporting(beside.firstChild, sectionRead)
}
