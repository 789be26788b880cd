"""A pytest plugin: what each page of the site sends, and how soon and how steadily it is drawn.

Times are those of this machine, with everything else that it does; nothing depends on them.
"""


def pytest_terminal_summary(terminalreporter) -> None:
    rows = [
        value
        for report in terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
        for name, value in report.user_properties
        if name == "measured" and report.when == "call"
    ]
    if rows:
        terminalreporter.section("pages in the browser, at worst of all schemes and widths")
        terminalreporter.write_line(f"{'kB sent':>8} {'of it budgeted':>15} {'LCP ms':>8} {'CLS':>7}  page")
    for page in sorted({row["page"] for row in rows}):
        worst = {key: max(row[key] for row in rows if row["page"] == page) for key in ("all", "budgeted", "lcp", "cls")}
        terminalreporter.write_line(
            f"{worst['all'] / 1000:8.0f} {worst['budgeted'] / 1000:15.0f} {worst['lcp']:8.0f} {worst['cls']:7.4f}  {page}"
        )
