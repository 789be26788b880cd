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
