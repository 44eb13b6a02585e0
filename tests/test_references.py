import json
import logging
import os
import random
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MmdbF32, MMDBWriter
from netaddr import IPSet

from ringstats_ts import references as module
from ringstats_ts.config import Config
from ringstats_ts.errors import ConfigError
from ringstats_ts.lookups import UNKNOWN_PLACE, EventIds, Lookups, Place
from ringstats_ts.references import fingerprint, references
from ringstats_ts.references.keys import client_keys, read_keys
from ringstats_ts.references.networks import read_networks
from ringstats_ts.references.places import geohash, read_places
from tests.steps import check_durable, recorded
from tests.threads import at_once

KEY = "0123456789abcdef"
GRENOBLE = {
    "country": {"iso_code": "FR", "names": {"en": "France"}},
    "city": {"names": {"de": "Grenoble (de)", "en": "Grenoble"}},
    "location": {"latitude": 45.1787, "longitude": 5.7147, "accuracy_radius": 20},
}
AT_GRENOBLE = Place("FR", "Grenoble", 45.1787, 5.7147, "u0h1409")


def write_places(path, records, ip_version=6, kind="GeoLite2-City"):
    writer = MMDBWriter(
        ip_version=ip_version,
        ipv4_compatible=ip_version == 6,
        database_type=kind,
        languages=["en"],
    )
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    fresh = path.with_suffix(".new")
    writer.to_db_file(str(fresh))
    fresh.replace(path)
    return path


def settings(tmp_path, **overrides):
    return Config.from_env({}, data_dir=tmp_path / "state" / "tsstats", **overrides)


def names(directory):
    return [path.name for path in directory.iterdir()]


@pytest.fixture
def places(tmp_path):
    return tmp_path / "city.mmdb"


@pytest.fixture
def clock(monkeypatch):
    """The clock of the look at files, which stands until it is set."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(module, "monotonic", lambda: Clock.now)
    return Clock


# Places


def test_a_city_record_gives_the_whole_place(places):
    find = read_places(write_places(places, {"1.2.3.0/24": GRENOBLE}))
    assert find("1.2.3.4") == AT_GRENOBLE


def test_a_country_database_gives_the_country_alone(places):
    find = read_places(write_places(places, {"1.2.3.0/24": {"country": {"iso_code": "FR"}}}, kind="Country"))
    assert find("1.2.3.4") == Place(country="FR")


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({}, UNKNOWN_PLACE),
        ({"country": "FR", "city": ["Grenoble"], "location": 7}, UNKNOWN_PLACE),
        # Where the owner of the address is registered, which is not where it is used.
        ({"registered_country": {"iso_code": "US"}}, UNKNOWN_PLACE),
        ({"country": {"iso_code": "FR"}, "location": {"time_zone": "Europe/Paris"}}, Place(country="FR")),
        (
            {"location": {"latitude": 45.1787, "longitude": 5.7147}},
            Place(None, None, 45.1787, 5.7147, "u0h1409"),
        ),
        ({"location": {"latitude": 45, "longitude": 0}}, Place(None, None, 45.0, 0.0, "u000000")),
        ({"location": {"latitude": True, "longitude": 0.5}}, UNKNOWN_PLACE),
        ({"location": {"latitude": 45.1787}}, UNKNOWN_PLACE),
        ({"location": {"latitude": 91.0, "longitude": 0.5}}, UNKNOWN_PLACE),
        ({"location": {"latitude": float("nan"), "longitude": 0.5}}, UNKNOWN_PLACE),
        ({"city": {"names": {"de": "Köln"}}}, UNKNOWN_PLACE),
        ({"city": {"names": {"en": "Cologne"}}}, Place(city="Cologne")),
        ({"city": {"names": {"en": "a\0b"}}}, UNKNOWN_PLACE),
        # How IP2Location and DB-IP write what they do not know.
        (
            {
                "country": {"iso_code": "-"},
                "city": {"names": {"en": "-"}},
                "location": {"latitude": 0.0, "longitude": 0.0},
            },
            UNKNOWN_PLACE,
        ),
        ({"country": {"iso_code": "ZZ"}, "city": {"names": {"en": ""}}}, UNKNOWN_PLACE),
        ({"country": {"iso_code": "France"}}, UNKNOWN_PLACE),
    ],
)
def test_what_a_record_lacks_is_unknown(places, record, place):
    find = read_places(write_places(places, {"1.2.3.0/24": record, "5.0.0.0/8": GRENOBLE}))
    assert find("1.2.3.4") == place


def test_coordinates_of_single_precision_come_out_as_they_were_written(places):
    location = {name: MmdbF32(GRENOBLE["location"][name]) for name in ("latitude", "longitude")}
    find = read_places(write_places(places, {"1.2.3.0/24": {**GRENOBLE, "location": location}}))
    assert find("1.2.3.4") == AT_GRENOBLE


@pytest.mark.parametrize(
    "address",
    ["", "web-1", "1.2.3", "1.2.3.4:80", "10.0.0.1", "fe80::1%eth0", "::1", "1.2.3.4\0", "1" * 100_000],
)
def test_what_is_no_address_of_the_file_is_unknown(places, address):
    find = read_places(write_places(places, {"1.2.3.0/24": GRENOBLE}))
    assert find(address) == UNKNOWN_PLACE


def test_long_names_are_not_remembered(places, monkeypatch):
    find = read_places(write_places(places, {"1.2.3.0/24": GRENOBLE}))
    monkeypatch.setattr(
        "ringstats_ts.references.places.ip_address", lambda text: pytest.fail("it was looked up")
    )
    assert find("client-" * 10) == UNKNOWN_PLACE


def test_ipv6_and_mapped_ipv4_are_found(places):
    find = read_places(write_places(places, {"1.2.3.0/24": GRENOBLE, "2a01:e0a::/32": GRENOBLE}))
    assert [find(a) for a in ("2a01:e0a::1", "::ffff:1.2.3.4", "2a02::1")] == [
        AT_GRENOBLE,
        AT_GRENOBLE,
        UNKNOWN_PLACE,
    ]


def test_ipv6_is_unknown_to_a_file_of_ipv4_alone(places):
    find = read_places(write_places(places, {"1.2.3.0/24": GRENOBLE}, ip_version=4))
    assert [find(a) for a in ("2a01:e0a::1", "::ffff:1.2.3.4", "1.2.3.4")] == [
        UNKNOWN_PLACE,
        AT_GRENOBLE,
        AT_GRENOBLE,
    ]


def test_a_file_without_places_is_refused(places):
    write_places(places, {"1.2.3.0/24": {"autonomous_system_number": 64496}}, kind="GeoLite2-ASN")
    with pytest.raises(
        ConfigError, match=r"city\.mmdb tells no places: it is of the kind 'GeoLite2-ASN'\. Take"
    ):
        read_places(places)


def test_no_damaged_file_gives_more_than_a_config_error_or_an_answer(places):
    write_places(places, {"1.2.3.0/24": GRENOBLE})
    whole = places.read_bytes()
    shuffle = random.Random(7)
    refused = 0
    for number in range(1500):
        body = bytearray(whole)
        for _ in range(shuffle.choice((1, 3, 20))):
            body[shuffle.randrange(len(body) - 1 - 200 * (number % 2), len(body))] = shuffle.randrange(256)
            body[shuffle.randrange(len(body))] = shuffle.randrange(256)
        places.write_bytes(body)
        try:
            find = read_places(places)
        except ConfigError:
            refused += 1
        else:
            assert isinstance(find("1.2.3.4"), Place)
    assert 0 < refused < 1500


@pytest.mark.parametrize("body", [b"", b"junk" * 100, b"\x1f\x8b\x08\x00"])
def test_a_file_that_is_no_database_is_refused(places, body):
    places.write_bytes(body)
    with pytest.raises(ConfigError, match=r"city\.mmdb is not a whole file in MaxMind's format\. Download"):
        read_places(places)


def test_a_file_cut_anywhere_is_refused(places):
    write_places(places, {"1.2.3.0/24": GRENOBLE})
    whole = places.read_bytes()
    # The last that is written is the time when it was made, which nothing here needs.
    needed = whole.rindex(b"build_epoch") + len("build_epoch")
    for end in range(needed):
        places.write_bytes(whole[:end])
        with pytest.raises(ConfigError):
            read_places(places)


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (57.64911, 10.40744, "u4pruydqqvj"),
        (42.605, -5.603, "ezs42"),
        (-25.382708, -49.265506, "6gkzwgjzn820"),
        (37.8324, 112.5584, "ww8p1r4t8"),
        (0.0, 0.0, "s0000"),
        (-90.0, -180.0, "00000"),
        (90.0, 180.0, "zzzzz"),
    ],
)
def test_geohash_gives_known_values(latitude, longitude, expected):
    assert geohash(latitude, longitude, len(expected)) == expected


@given(st.floats(-90, 90), st.floats(-180, 180), st.integers(1, 12))
def test_a_geohash_is_the_cell_that_its_point_is_in(latitude, longitude, length):
    bits = "".join(
        f"{'0123456789bcdefghjkmnpqrstuvwxyz'.index(c):05b}" for c in geohash(latitude, longitude, length)
    )
    for value, half, own in ((longitude, 180, bits[::2]), (latitude, 90, bits[1::2])):
        size = 2 * half / 2 ** len(own)
        west = int(own or "0", 2) * size - half
        assert west <= value <= west + size


# Networks


def write_json(path, *networks):
    path.write_text(json.dumps({"networks": networks}))
    return path


def network(code, start, end=None):
    return {"fdsn_code": code, "start_date": start, "end_date": end, "name": "Some", "doi": "10.7914/x"}


def at(day):
    return datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=UTC)


def extended(path, code, day):
    return Lookups(networks=read_networks(path)).network(code, at(day))


def test_a_temporary_code_gets_the_year_in_which_its_network_began(tmp_path):
    path = write_json(
        tmp_path / "n.json",
        network("XA", "1990-03-01", "1991-12-31"),
        network("XA", "2019-01-01"),
        network("XB", "2000-01-01", ""),
    )
    days = ["1990-02-28", "1990-03-01", "1991-12-31", "1992-01-01", "2019-01-01", "2026-01-01"]
    assert [extended(path, "XA", day) for day in days] == [None, "XA1990", "XA1990", None, "XA2019", "XA2019"]
    assert extended(path, "XB", "2026-01-01") == "XB2000"


def test_of_networks_with_one_code_the_one_that_began_last_counts(tmp_path):
    path = write_json(
        tmp_path / "n.json", network("7A", "2000-01-01"), network("7A", "2010-01-01", "2012-01-01")
    )
    days = ["2009-12-31", "2011-01-01", "2013-01-01"]
    assert [extended(path, "7A", day) for day in days] == ["7A2000", "7A2010", "7A2000"]


def test_only_temporary_codes_are_kept(tmp_path):
    permanent = ["IU", "G", "A0", "XA2002", "SEIS2018", "xa", "X", "W9", "_FDSN"]
    rows = [network(code, "1990-01-01") for code in [*permanent, "0A", "Z9"]]
    # Nothing else of a permanent network is read.
    rows.append({"fdsn_code": "GE", "start_date": None})
    assert set(read_networks(write_json(tmp_path / "n.json", *rows))) == {"0A", "Z9"}


def test_an_end_date_may_be_absent(tmp_path):
    path = write_json(tmp_path / "n.json", {"fdsn_code": "ZO", "start_date": "2008-01-01"})
    assert extended(path, "ZO", "2013-01-01") == "ZO2008"


TEXT = """\
#Network | Description | StartTime | EndTime | TotalStations
GE|GEOFON Program, GFZ Potsdam, Germany|1993-01-01T00:00:00||84
Z3|AlpArray | a bar|2015-01-01T00:00:00|2022-12-31T23:59:59|600

XA|Long|1990-01-01|2500-12-12T23:59:59.000000Z|
"""


@pytest.mark.parametrize(
    "change", [str, lambda text: text.replace("\n", "\r\n"), lambda text: f"\ufeff{text}"]
)
def test_the_text_of_fdsnws_station_is_read(tmp_path, change):
    path = tmp_path / "networks.txt"
    path.write_bytes(change(TEXT).encode())
    assert set(read_networks(path)) == {"Z3", "XA"}
    assert extended(path, "Z3", "2022-12-31") == "Z32015"
    assert extended(path, "Z3", "2023-01-01") is None
    assert extended(path, "XA", "2026-01-01") == "XA1990"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "n is empty."),
        ("<html>", "Line 1 of {path} is no network."),
        ("#Network|...\nXA|Some|1990-01-01||1\nXA|Some|199||1\n", "Line 3 of {path} is no network."),
        ("XA|Some|1990-01-01|\n", "Line 1 of {path} is no network."),
        ("XA|Some||1990-01-01|4\n", "Line 1 of {path} is no network."),
        (TEXT[:-20], "Line 5 of {path} is no network."),
        ('{"networks": [', "{path} is no JSON with an array `networks`"),
        ('{"networks": []}', "{path} is no JSON with an array `networks`"),
        ('{"networks": {}}', "{path} is no JSON with an array `networks`"),
        ('{"datacenters": []}', "{path} is no JSON with an array `networks`"),
        ("[1]", "{path} is no JSON with an array `networks`"),
        ('{"networks": [{"fdsn_code": "IU"}, 7]}', "The element /networks/1 of {path} is no network."),
        ('{"networks": [{"code": "XA"}]}', "The element /networks/0 of {path} is no network."),
        ('{"networks": [{"fdsn_code": null}]}', "The element /networks/0 of {path} is no network."),
        ('{"networks": [{"fdsn_code": "XA"}]}', "The element /networks/0 of {path} is no network."),
        (
            '{"networks": [{"fdsn_code": "XA", "start_date": 1990}]}',
            "The element /networks/0 of {path} is no network.",
        ),
        (
            '{"networks": [{"fdsn_code": "XA", "start_date": "1990-01-01", "end_date": "1991-02-30"}]}',
            "The element /networks/0 of {path} is no network.",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, text, message):
    path = tmp_path / "n"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_networks(path)
    assert message.format(path=path) in str(caught.value)
    assert "https://www.fdsn.org/ws/networks/1/query" in str(caught.value)


# Keys


def test_the_first_key_makes_pseudonyms_and_the_last_the_ids_of_events(tmp_path):
    old = references(settings(tmp_path, client_key=KEY))
    new = references(settings(tmp_path, client_key=f"# 2027\nanother key of some length\n\n  {KEY}  \n"))
    assert old.client("1.2.3.4") != new.client("1.2.3.4")
    assert EventIds(old.event_key).of(b"event") == EventIds(new.event_key).of(b"event")
    assert fingerprint(old) == fingerprint(new)


def test_a_fingerprint_tells_keys_apart_and_is_no_hash_that_is_stored(tmp_path):
    lookups = references(settings(tmp_path, client_key=KEY))
    assert fingerprint(lookups) == "44d9e1f2340068cd"
    assert fingerprint(lookups) != fingerprint(references(settings(tmp_path, client_key=KEY + "0")))
    assert fingerprint(lookups) != lookups.client("")


def test_all_of_a_long_key_counts():
    one, other = read_keys("k" * 99 + "1\n" + "k" * 99 + "2", "here")
    assert one != other
    assert len(one) == 64


def test_raw_clients_are_stored_as_they_are_and_events_still_have_a_key(tmp_path):
    lookups = references(settings(tmp_path, client_key=KEY, clients="raw"))
    assert lookups.client("1.2.3.4") == "1.2.3.4"
    assert lookups.event_key == KEY.encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n# only a remark\n", "There is no key in TSSTATS_CLIENT_KEY."),
        (f"{KEY}\n\nshort secret\n", "The key in line 3 of TSSTATS_CLIENT_KEY has fewer than 16 characters."),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_and_not_told(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        references(settings(tmp_path, client_key=text))
    assert message in str(caught.value)
    assert "short secret" not in str(caught.value)


def test_keys_are_made_once_for_its_owner_alone(tmp_path):
    config = settings(tmp_path)
    old_mask = os.umask(0)
    try:
        keys = client_keys(config)
    finally:
        os.umask(old_mask)
    path = config.data_dir / "client-key"
    assert path.read_text().split("\n")[1::2] == [key.decode() for key in keys]
    assert [len(bytes.fromhex(key.decode())) for key in keys] == [32, 32]
    assert keys[0] != keys[1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.data_dir.stat().st_mode) == 0o700
    assert names(config.data_dir) == ["client-key"]
    assert client_keys(config) == keys


def test_a_key_is_on_the_disk_before_it_is_used(tmp_path, monkeypatch):
    config = settings(tmp_path)
    with recorded(monkeypatch) as steps:
        client_keys(config)
    check_durable(steps, config.data_dir / "client-key")


def test_a_key_that_is_there_is_left_as_it_is(tmp_path):
    config = settings(tmp_path)
    config.data_dir.mkdir(parents=True)
    (config.data_dir / "client-key").write_text(f"# mine\n{KEY}\n")
    assert client_keys(config) == (KEY.encode(),)


def test_a_key_of_the_settings_makes_no_file(tmp_path):
    config = settings(tmp_path, client_key=KEY)
    references(config)
    assert not config.data_dir.exists()


def test_a_file_that_cannot_be_used_makes_no_key(tmp_path):
    config = settings(tmp_path, places=tmp_path / "absent.mmdb")
    with pytest.raises(ConfigError, match=r"absent\.mmdb cannot be read: No such file or directory\."):
        references(config)
    assert not config.data_dir.exists()


@pytest.mark.parametrize("there", ["file in the way", "directory for a key"])
def test_a_key_that_cannot_be_kept_names_the_settings_to_use(tmp_path, there):
    config = settings(tmp_path)
    if there == "file in the way":
        config.data_dir.parent.write_text("")
    else:
        (config.data_dir / "client-key").mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"cannot be kept .* Set TSSTATS_CLIENT_KEY or TSSTATS_CLIENT_KEY_FILE\."
    ):
        references(config)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_names_the_settings_to_use(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"Permission denied\. Set TSSTATS_CLIENT_KEY"):
        references(settings(tmp_path))


ONE_OF_MANY = """
import sys
import threading
import time
from pathlib import Path
from ringstats_ts.config import Config
from ringstats_ts.references.keys import client_keys
config = Config.from_env({}, data_dir=Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(client_keys(config))
"""


def test_processes_that_make_the_key_at_once_get_the_same(tmp_path):
    directory = settings(tmp_path).data_dir
    command = [sys.executable, "-c", ONE_OF_MANY, str(directory)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(8)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 8
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    keys = {process.communicate(timeout=60)[0] for process in processes}
    assert keys == {f"{read_keys((directory / 'client-key').read_text(), 'here')}\n"}
    assert names(directory) == ["client-key"]


def test_a_key_that_another_process_made_meanwhile_is_taken(tmp_path, monkeypatch):
    config = settings(tmp_path)
    link = os.link

    def late(new, path):
        path.write_text(KEY)
        link(new, path)

    monkeypatch.setattr(os, "link", late)
    assert client_keys(config) == (KEY.encode(),)
    assert names(config.data_dir) == ["client-key"]


# Files that change


def test_what_did_not_change_is_not_read_again(tmp_path, places, clock, monkeypatch):
    write_places(places, {"1.2.3.0/24": GRENOBLE})
    config = settings(tmp_path, client_key=KEY, places=places)
    find = references(config).find_place
    clock.now += 3600
    assert references(config).find_place is find

    clock.now += 4.9
    monkeypatch.setattr(Path, "stat", lambda path: pytest.fail("it was looked at within 5 seconds"))
    assert references(config).find_place is find


def test_a_replaced_file_is_used_within_5_seconds(tmp_path, places, clock):
    registry = write_json(tmp_path / "networks.json", network("XA", "2019-01-01"))
    write_places(places, {"1.2.3.0/24": GRENOBLE})
    config = settings(tmp_path, client_key=KEY, places=places, networks=registry)
    assert references(config).place("1.2.3.4").city == "Grenoble"

    write_places(places, {"1.2.3.0/24": {"city": {"names": {"en": "Lyon"}}}})
    write_json(registry, network("XA", "2021-01-01"))
    assert references(config).place("1.2.3.4").city == "Grenoble"
    clock.now += 5
    assert references(config).place("1.2.3.4") == Place(city="Lyon")
    assert references(config).network("XA", at("2026-01-01")) == "XA2021"
    assert references(config).client("x") == Lookups((KEY.encode(),)).client("x")


@pytest.mark.parametrize("broken", ["junk", "gone", "directory"])
def test_a_broken_new_file_keeps_the_old_one_and_is_told_once(tmp_path, places, clock, caplog, broken):
    caplog.set_level(logging.WARNING)
    write_places(places, {"1.2.3.0/24": GRENOBLE})
    config = settings(tmp_path, client_key=KEY, places=places)
    references(config)
    places.unlink()
    if broken == "junk":
        places.write_bytes(b"junk")
    elif broken == "directory":
        places.mkdir()
    for _ in range(3):
        clock.now += 5
        assert references(config).place("1.2.3.4") == AT_GRENOBLE
    (record,) = caplog.records
    assert record.name == "ringstats_ts.references"
    assert record.getMessage().endswith("What it said before stays in use.")

    places.rmdir() if broken == "directory" else places.unlink(missing_ok=True)
    write_places(places, {"1.2.3.0/24": {"city": {"names": {"en": "Lyon"}}}})
    clock.now += 5
    assert references(config).place("1.2.3.4") == Place(city="Lyon")
    assert len(caplog.records) == 1


def test_nobody_waits_while_a_new_file_is_read(tmp_path, places, clock, monkeypatch):
    reading, read = threading.Event(), threading.Event()

    def slowly(path):
        reading.set()
        assert read.wait(30)
        return read_places(path)

    write_places(places, {"1.2.3.0/24": GRENOBLE})
    config = settings(tmp_path, client_key=KEY, places=places)
    references(config)
    kept = next(kept for key, kept in module._kept.items() if places in key)
    monkeypatch.setattr(kept._places, "_read", slowly)
    write_places(places, {"1.2.3.0/24": {"city": {"names": {"en": "Lyon"}}}})
    clock.now += 5

    def look():
        assert reading.wait(30)
        assert references(config).place("1.2.3.4") == AT_GRENOBLE
        read.set()

    at_once([lambda: references(config), look])
    assert references(config).place("1.2.3.4") == Place(city="Lyon")


def test_a_file_in_use_may_be_overwritten_in_place(tmp_path, places):
    write_places(places, {"1.2.3.0/24": GRENOBLE})
    find = read_places(places)
    places.write_bytes(b"")
    assert find("1.2.3.4") == AT_GRENOBLE


def test_threads_find_places_while_the_file_is_replaced(tmp_path, places, monkeypatch):
    monkeypatch.setattr(module, "CHECKED_EVERY", 0.0)
    versions = []
    for number in range(10):
        record = {"city": {"names": {"en": f"City {number}"}}}
        versions.append(
            write_places(tmp_path / f"{number}.mmdb", {"1.2.0.0/16": record, "2a01::/16": record})
        )
    versions[0].replace(places)
    config = settings(tmp_path, client_key=KEY, places=places)
    assert references(config).place("1.2.3.4").city == "City 0"

    def look():
        cities, until = ["City 0"], time.monotonic() + 30
        while cities[-1] != "City 9" and time.monotonic() < until:
            lookups = references(config)
            one, other = (lookups.place(f"{start}{len(cities) % 250}") for start in ("1.2.3.", "2a01::"))
            assert one == other
            cities.append(one.city)
        assert cities == sorted(cities)
        seen.append(cities)

    def replace():
        for version in versions[1:]:
            time.sleep(0.02)
            version.replace(places)

    seen = []
    at_once([*[look] * 8, replace])
    assert {cities[-1] for cities in seen} == {"City 9"}


def test_threads_that_come_first_at_once_read_the_file_once(tmp_path, places, monkeypatch):
    write_places(places, {"1.2.3.0/24": GRENOBLE})
    read, reads = read_places, []
    monkeypatch.setattr(module, "read_places", lambda path: reads.append(path) or read(path))
    config = settings(tmp_path, places=places)
    found = []
    at_once([lambda: found.append(references(config))] * 8)
    assert {lookups.keys for lookups in found} == {found[0].keys}
    assert len(reads) == 1
