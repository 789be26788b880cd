"""`python -m website.offline SITE ARCHIVE`: the built site in one archive, to read and search without a server.

Opened from a folder, a page may neither fetch the index of the search nor start a worker. In the archive the
index is a script, and website/offline.js does the worker's part. The same site gives the same bits.
"""

import re
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

SCRIPT = re.compile(r'(?P<before>\s*)<script src="(?P<root>[./]*)assets/javascripts/bundle\.')
FOR_SERVERS = {"404.html", "sitemap.xml", "sitemap.xml.gz", "changes.xml"}
INDEX = "search/search_index.json"
WORKER = "search/offline.js"
DAY = (2020, 1, 1, 0, 0, 0)  # of every file: archives know no other times than local ones


def files(site: Path) -> dict[str, bytes]:
    """What the archive holds: by path below its folder, the content.

    Raises:
        FileNotFoundError: no site was built in this folder.
        ValueError: a page does not load the theme's script where it is expected.
    """
    if not (site / INDEX).is_file():
        raise FileNotFoundError(f"{site}: no built site with a search index in this folder")
    held = {}
    for file in sorted(path for path in site.rglob("*") if path.is_file()):
        name, content = file.relative_to(site).as_posix(), file.read_bytes()
        if name in FOR_SERVERS:
            continue
        if name == INDEX:
            name, content = name.removesuffix("on"), b"var __index = " + content
        elif file.suffix == ".html":
            page, n = SCRIPT.subn(rf'\g<before><script src="\g<root>{WORKER}"></script>\g<0>', content.decode())
            if n != 1:
                raise ValueError(f"{file}: loads the script of the theme {n} times, not once")
            content = page.encode()
        held[name] = content
    held[WORKER] = Path(__file__).with_suffix(".js").read_bytes()
    return held


def write(site: Path, archive: Path) -> None:
    """Write the archive: one folder, named as the archive itself, that opens at its index.html."""
    with ZipFile(archive, "w") as zipped:
        for name, content in sorted(files(site).items()):
            entry = ZipInfo(f"{archive.stem}/{name}", DAY)
            entry.compress_type, entry.create_system, entry.external_attr = ZIP_DEFLATED, 3, 0o644 << 16
            zipped.writestr(entry, content, compresslevel=9)


def main(site: str, archive: str) -> None:
    write(Path(site), Path(archive))
    size = Path(archive).stat().st_size / 1e6
    print(f"{archive} ({size:.1f} MB): unpack it and open {Path(archive).stem}/index.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
