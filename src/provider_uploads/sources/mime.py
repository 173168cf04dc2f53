"""Which MIME type a file is uploaded as, when the caller does not say.

The decision is by name alone and the same on every machine: Python's own table, without the
system's files, corrected where the Gemini API knows a type by another name or refuses it.
"""

from __future__ import annotations

import mimetypes
from functools import cache
from pathlib import PurePath

#: For names that say nothing; the provider stores it, models do not read it.
UNKNOWN = "application/octet-stream"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Source code and configuration. The API refuses the types that Python guesses for some of them
#: (googleapis/python-genai#744: .ts is a Qt translation there, .cu a video conference), and has
#: none of its own for the rest; as plain text models read them all.
_PLAIN_TEXT = _names(
    """
    .adoc .asm .bash .bat .bib .c .cc .cfg .clj .cmake .conf .cpp .cs .cu .cuh .cxx .dart .diff
    .dockerfile .el .elm .env .erl .ex .exs .f .f90 .fish .fs .gd .glsl .go .gradle .graphql .groovy
    .h .hcl .hh .hpp .hs .hxx .ini .ipynb .java .jl .jsx .kt .kts .less .lisp .log .lua .m .mk .ml
    .mli .mm .nim .nix .patch .php .pl .pm .properties .proto .ps1 .psm1 .r .rb .rs .rst .s .sass
    .sbt .scala .scm .scss .sh .sol .sql .srt .sv .svelte .swift .tcl .tex .tf .toml .ts .tsx .txt
    .v .vb .vhd .vtt .vue .wat .yaml .yml .zig .zsh
    """
)

#: Files that go by their whole name.
_PLAIN_TEXT_NAMES = _names(
    """
    .bashrc .dockerignore .editorconfig .env .gitattributes .gitignore .gitmodules .npmrc .profile
    .zshrc authors brewfile cargo.lock changelog cmakelists.txt codeowners contributing copying
    dockerfile gemfile go.mod go.sum jenkinsfile justfile license makefile notice pipfile procfile
    rakefile readme todo vagrantfile version
    """
)

#: The names the Gemini API documents (ai.google.dev: document, audio, image and video
#: understanding), where Python's table has another one or none.
_DOCUMENTED = {
    ".aif": "audio/aiff",
    ".aiff": "audio/aiff",
    ".flac": "audio/flac",
    ".wav": "audio/wav",
    ".3gp": "video/3gpp",
    ".avi": "video/avi",
    ".flv": "video/x-flv",
    ".wmv": "video/wmv",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".webp": "image/webp",
    ".css": "text/css",
    ".csv": "text/csv",
    ".htm": "text/html",
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".cjs": "text/javascript",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".py": "text/x-python",
    ".pyi": "text/x-python",
    ".rtf": "text/rtf",
    ".tsv": "text/tab-separated-values",
    ".xml": "text/xml",
    ".json": "application/json",
    # Batch input: `jsonl` as the documentation has it is no MIME type and was refused at times
    # (googleapis/python-genai#1547); this one and application/json are taken.
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
    ".gz": "application/gzip",
    ".bz2": "application/x-bzip2",
    ".xz": "application/x-xz",
}


@cache
def _pythons() -> mimetypes.MimeTypes:
    return mimetypes.MimeTypes()


def guess_type(name: str) -> str:
    """Return the MIME type for a file of this name, ``application/octet-stream`` if it says none.

    Only the last component counts; case does not.
    """
    base = PurePath(name).name.lower()
    suffix = PurePath(base).suffix
    if base in _PLAIN_TEXT_NAMES or suffix in _PLAIN_TEXT:
        return "text/plain"
    if suffix in _DOCUMENTED:
        return _DOCUMENTED[suffix]
    return _pythons().guess_type(base, strict=True)[0] or UNKNOWN
