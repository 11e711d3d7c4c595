"""Makes .venv hold what pyproject.toml and constraints.txt ask for; run by run_llmc.sh and test.sh with any Python 3.

Its arguments are extras of pyproject.toml that are wanted besides `dev`.
Costs a few milliseconds when nothing is to be done. Two starts at once wait for each other, and only an installation
that went through to its end counts.
"""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
VENV = REPOSITORY / ".venv"
PYTHON = VENV / "bin" / "python"
NEEDED = (3, 11)


def main(extras):
    """Returns at once if .venv is as it should be."""
    wanted = fingerprint()
    if not missing(extras, wanted):
        return
    if sys.version_info < NEEDED:
        found = ".".join(map(str, sys.version_info[:3]))
        stop(f"{sys.executable} is Python {found}; llmc needs 3.11 or newer: name one, as in PYTHON=python3.12")
    refuse_foreign()
    VENV.mkdir(exist_ok=True)
    with (VENV / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system frees it when its holder dies
        for extra in missing(extras, wanted):  # none, if another start has done it in the meantime
            install(extra, wanted)


def refuse_foreign():
    """An environment that a link leads to may be another checkout's: installing here would turn it away from there."""
    stamps = VENV.glob("installed*") if VENV.is_symlink() else ()
    if any(not file.read_text().startswith(f"{REPOSITORY}\n") for file in stamps):
        found = f"{VENV} is a link to {VENV.resolve()}, which another checkout uses"
        stop(f"{found}; remove the link (rm {VENV}) and start again: this checkout gets an environment of its own")


def install(extra, wanted):
    """Make the environment, and stamp it last of all."""
    if stamp(extra).exists():
        stamp(extra).unlink()
    if not PYTHON.exists():
        print(f"making {VENV}", file=sys.stderr)
        if subprocess.call([sys.executable, "-m", "venv", str(VENV)], stdout=sys.stderr):
            stop("python3 -m venv failed; on Debian and Ubuntu it is a package: apt-get install python3-venv")
    size = "1.5 GB" if extra == "dev" else "0.2 GB"
    print(f"installing what pyproject.toml asks for ({extra}): once, about {size}", file=sys.stderr)
    pip = [str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    if subprocess.call([*pip, "-c", "constraints.txt", "-e", f".[{extra}]"], cwd=str(REPOSITORY), stdout=sys.stderr):
        stop("pip could not install llmc; what it said stands above; start again once that is mended")
    stamp(extra).write_text(wanted)


def missing(extras, wanted):
    """The extras that .venv lacks, or has of other requirements."""
    made = PYTHON.exists()
    return [extra for extra in extras if not (made and stamp(extra).exists() and stamp(extra).read_text() == wanted)]


def stamp(extra):
    """The file that says what an extra was last installed for."""
    return VENV / ("installed" if extra == "dev" else f"installed-{extra}")


def fingerprint():
    """Changes with the place, which an editable installation points to, and with the requirements."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((REPOSITORY / name).read_bytes())
    return f"{REPOSITORY}\n{digest.hexdigest()}"


def stop(why):
    """End with a message and a code that is not 0."""
    print("error: " + why, file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main(["dev", *sys.argv[1:]])
