"""``mercure-hub convert``: what becomes a setting, and that every other line is named."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from mercure_hub.cli import main
from mercure_hub.config.loading import load_settings
from mercure_hub.tools.conversion.command import convert
from mercure_hub.tools.conversion.conversion import Conversion, environment, toml
from mercure_hub.tools.conversion.settings import seconds, size
from mercure_hub.tools.conversion.syntax import CaddyfileError, DotenvError

SECRET = "a secret that is long enough for HMAC-SHA-256"
OTHER = 'another "secret" that is long $enough for `HMAC`'
ESCAPED = OTHER.replace('"', '\\"')

OLD = f"""
{{
    order mercure after encode
    admin off
}}
hub.example.com {{
    encode zstd gzip
    mercure {{
        # as on the page of the project
        transport_url bolt:///data/mercure.db?size=100&cleanup_frequency=0.4
        publisher_jwt "{SECRET}" HS256
        subscriber_jwt "{ESCAPED}"
        cors_origins https://example.com https://www.example.com
        publish_origins https://example.com
        anonymous
        subscriptions
        heartbeat 1m30s
        dispatch_timeout 500ms
        write_timeout 1h
        cookie_name mercureAuthorization
        max_request_body_size 512KB
        topic_matcher_cache 1000
        protocol_version_compatibility 8
        demo
        frobnicate yes
    }}
    respond "Not Found" 404
}}
"""
EXPECTED = {
    "public_url": "https://hub.example.com/.well-known/mercure",
    "transport_url": "sqlite:////data/mercure-hub.db",
    "history_size": "100",
    "publisher_jwt_key": SECRET,
    "publisher_jwt_alg": "HS256",
    "subscriber_jwt_key": OTHER,
    "cors_origins": "https://example.com https://www.example.com",
    "publish_origins": "https://example.com",
    "anonymous": "1",
    "subscriptions": "1",
    "heartbeat": "90",
    "dispatch_timeout": "0.5",
    "write_timeout": "3600",
    "cookie_name": "mercureAuthorization",
    "max_request_body_size": "512000",
}


def settings(conversion: Conversion) -> dict[str, str]:
    return {name: value for name, (value, _) in conversion.settings.items()}


def left(conversion: Conversion) -> list[tuple[str, str]]:
    return [(note.location, note.name) for note in conversion.notes if note.is_left]


def test_a_caddyfile_is_converted() -> None:
    conversion = convert({"Caddyfile": OLD})
    assert settings(conversion) == EXPECTED
    assert left(conversion) == [
        ("Caddyfile:4", "admin"),
        ("Caddyfile:7", "encode"),
        ("Caddyfile:27", "respond"),
        ("Caddyfile:24", "demo"),
        ("Caddyfile:25", "frobnicate"),
    ]
    noted = {note.name for note in conversion.notes if not note.is_left}
    assert noted >= {"order", "transport_url cleanup_frequency", "topic_matcher_cache"}


def test_every_directive_is_a_setting_or_a_note() -> None:
    """Line by line: nothing vanishes."""
    conversion = convert({"Caddyfile": OLD})
    locations = {location for _, location in conversion.settings.values()}
    locations |= {note.location for note in conversion.notes}
    said = [
        number for number, line in enumerate(OLD.splitlines(), 1) if line.strip(" {}") and "#" not in line
    ]
    assert {f"Caddyfile:{number}" for number in said} - locations == {
        "Caddyfile:8"
    }  # the word mercure itself


@pytest.mark.minutes
def test_the_result_starts_a_hub(tmp_path: Path) -> None:
    """As a TOML file, and as variables the way a shell and systemd read them."""
    conversion = convert({"Caddyfile": OLD})
    file = tmp_path / "hub.toml"
    file.write_text(toml(conversion, with_secrets=True))
    loaded = load_settings({"MERCURE_CONFIG": str(file)}, {})
    assert loaded.heartbeat == 90
    (tmp_path / "hub.env").write_text(environment(conversion, with_secrets=True))
    done = subprocess.run(
        ["/bin/sh", "-c", "set -a; . ./hub.env; env -0"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    variables = dict(one.split("=", 1) for one in done.stdout.decode().split("\0") if "=" in one)
    assert {f"MERCURE_{name.upper()}": value for name, value in EXPECTED.items()}.items() <= variables.items()
    assert load_settings(variables, {}).issuers == loaded.issuers


def test_secrets_are_printed_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "Caddyfile"
    file.write_text(OLD)
    for flags in ([], ["--toml"]):
        assert main(["convert", str(file), *flags]) == 1
        output = capsys.readouterr()
        assert SECRET not in output.out + output.err
        assert "another" not in output.out + output.err
        assert "Caddyfile:11; --secrets prints it" in output.out
    main(["convert", str(file), "--secrets"])
    output = capsys.readouterr()
    assert SECRET in output.out
    assert SECRET not in output.err


def test_an_environment_and_a_caddyfile_are_converted_together() -> None:
    caddyfile = """{$SERVER_NAME:localhost} {
    mercure {
        publisher_jwt {env.MERCURE_PUBLISHER_JWT_KEY} {env.MERCURE_PUBLISHER_JWT_ALG}
        {$MERCURE_EXTRA_DIRECTIVES}
        {$NOT_GIVEN}
    }
}
"""
    variables = f"""# of compose
SERVER_NAME=hub.example.com
MERCURE_PUBLISHER_JWT_KEY='{SECRET}'
MERCURE_EXTRA_DIRECTIVES="anonymous
cors_origin https://example.com"
DATABASE_URL=postgres://user:hush@host/db
"""
    conversion = convert({"Caddyfile": caddyfile, ".env": variables})
    assert settings(conversion) == {
        "public_url": "https://hub.example.com/.well-known/mercure",
        "publisher_jwt_key": SECRET,
        "anonymous": "1",
    }
    assert left(conversion) == [(".env:4", "cors_origin"), (".env:6", "DATABASE_URL")]
    notes = "\n".join(map(str, conversion.notes))
    assert "Caddyfile:5: {$NOT_GIVEN}: has no value here" in notes
    assert "hush" not in notes


def test_variables_are_converted_without_a_caddyfile() -> None:
    conversion = convert(
        {
            ".env": f"MERCURE_JWT_KEY={SECRET.replace(' ', '-')}\nMERCURE_ALLOW_ANONYMOUS=1\n"
            "MERCURE_HEARTBEAT_INTERVAL=15s\nMERCURE_TRANSPORT_URL=bolt://updates.db?size=7\n"
            "MERCURE_CORS_ALLOWED_ORIGINS=https://a.test,https://b.test\nMERCURE_USE_FORWARDED_HEADERS=1\n"
            "ADDR=:3001\nMERCURE_LICENSE=x\nMERCURE_URL=http://hub/.well-known/mercure\n"
        }
    )
    found = settings(conversion)
    assert found["publisher_jwt_key"] == SECRET.replace(" ", "-")
    assert found["listen"] == "127.0.0.1:3001"
    assert found["transport_url"] == "sqlite:///mercure-hub.db"
    assert (found["history_size"], found["heartbeat"], found["anonymous"]) == ("7", "15", "1")
    assert found["cors_origins"] == "https://a.test https://b.test"
    assert left(conversion) == [(".env:6", "MERCURE_USE_FORWARDED_HEADERS"), (".env:9", "MERCURE_URL")]


def test_issuers_are_converted(tmp_path: Path) -> None:
    conversion = convert(
        {
            "Caddyfile": f"""hub.example.com {{
    mercure {{
        issuer https://a.test {{
            publisher {{
                jwt "{SECRET}" HS256
            }}
        }}
        issuer https://b.test {{
            authorization_server
            publisher {{
                jwks_uri https://b.test/jwks
            }}
            subscriber {{
                jwks_uri https://b.test/jwks
            }}
        }}
    }}
}}
"""
        }
    )
    assert conversion.is_complete
    text = toml(conversion, with_secrets=True)
    assert tomllib.loads(text)["issuer"] == [
        # Subscribers had no key there: they shall not have the publisher's here.
        {
            "identifier": "https://a.test",
            "publisher_key": SECRET,
            "publisher_alg": "HS256",
            "roles": ["publish"],
        },
        {"identifier": "https://b.test", "authorization_server": True, "jwks_uri": "https://b.test/jwks"},
    ]
    file = tmp_path / "hub.toml"
    file.write_text(text)
    assert len(load_settings({"MERCURE_CONFIG": str(file)}, {}).issuers) == 2
    assert SECRET not in toml(conversion, with_secrets=False)
    assert "--toml prints it" in environment(conversion, with_secrets=False)


def test_one_issuer_is_the_one_of_the_settings() -> None:
    conversion = convert(
        {
            "Caddyfile": f"""hub.example.com {{
    mercure {{
        issuer https://a.test {{
            publisher {{
                jwt "{SECRET}"
            }}
            subscriber {{
                jwt "{OTHER.replace('"', "")}"
            }}
        }}
        transport redis {{
            url redis://user:hush@host
        }}
    }}
}}
"""
        }
    )
    assert settings(conversion)["issuer"] == "https://a.test"
    assert settings(conversion)["publisher_jwt_key"] == SECRET
    assert settings(conversion)["transport_url"] == "redis://user@host/0"
    assert left(conversion) == [("Caddyfile:11", "transport password")]
    assert "hush" not in "".join(map(str, conversion.notes))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "transport redis {\n address cache:6379\n stream news\n max_length 500\n gob\n}",
            {"transport_url": "redis://cache:6379/0?name=news", "history_size": "500"},
        ),
        (
            "transport redis {\n addresses cache:6379\n stream mercure\n tls\n}",
            {"transport_url": "rediss://cache:6379/0"},
        ),
        (
            "transport redis {\n url redis://cache:6379/3\n stream mercure\n size 9\n history_limit 5\n}",
            {"transport_url": "redis://cache:6379/3", "history_size": "9"},
        ),
        (
            "transport_url redis://cache/news?tls=1&max_len_approx=7",
            {"transport_url": "rediss://cache/0?name=news", "history_size": "7"},
        ),
        (
            "transport postgres {\n url postgres://m@db/mercure-ha?sslmode=require&sslrootcert=/etc/ca.pem\n}",
            {"transport_url": "postgresql://m@db/mercure-ha?sslmode=require&sslrootcert=/etc/ca.pem"},
        ),
        ("transport_url postgres://m@db/x", {"transport_url": "postgresql://m@db/x"}),
    ],
)
def test_a_transport_of_several_nodes_becomes_an_engine(text: str, expected: dict[str, str]) -> None:
    conversion = convert({"Caddyfile": f"hub.example.com {{\n mercure {{\n  {text}\n }}\n}}"})
    found = settings(conversion)
    assert {name: found[name] for name in expected} == expected
    assert left(conversion) == []
    assert "starts with an empty history there" in "".join(map(str, conversion.notes))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("transport postgres {\n url postgres://m:hush@db/x\n}", "transport password"),
        ("transport_url postgres://db/x?user=m&password=hush", "transport_url password"),
        ("transport redis {\n address cache:6379\n password hush\n}", "transport password"),
        ("transport redis {\n addresses a:6379 b:6379\n}", "transport"),
        ("transport redis {\n address caddy-storage-redis.alt\n}", "transport"),
        ("transport redis {\n address cache:6379\n colour red\n}", "transport colour"),
        ("transport kafka {\n address hush:9092\n}", "transport"),
        ("transport postgres", "transport"),
    ],
)
def test_what_is_open_in_a_transport_is_named_without_its_secret(text: str, name: str) -> None:
    conversion = convert({"Caddyfile": f"hub.example.com {{\n mercure {{\n  {text}\n }}\n}}"})
    assert [one for _, one in left(conversion)] == [name]
    assert "hush" not in "".join(map(str, conversion.notes))
    assert "hush" not in environment(conversion, with_secrets=True)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("heartbeat soon", "heartbeat"),
        ("heartbeat", "heartbeat"),
        ("cors_origins https://example.com/path", "cors_origins"),
        ("max_request_body_size many", "max_request_body_size"),
        ("heartbeat 1s 2s", "heartbeat"),
        ("anonymous yes", "anonymous"),
        ("publisher_jwt hush HS256 hush", "publisher_jwt"),
        ("publisher_jwt hush-hush", "MERCURE_PUBLISHER_JWT_KEY"),
        ("publisher_jwt {env.ELSEWHERE}", "publisher_jwt"),
        ("publisher_jwt before{env.ELSEWHERE}", "publisher_jwt"),
        ("publisher_jwks_url https://user:hush@host/jwks", "publisher_jwks_url"),
        ("MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAu1SU1LfVLPHCozMxH2Mo", "a line"),
        ("transport_url bolt://m.db?siez=100", "transport_url siez"),
        ("transport_url bolt://m.db?size=-1", "transport_url size"),
    ],
)
def test_what_cannot_be_used_is_named_without_its_secret(text: str, name: str) -> None:
    conversion = convert({"Caddyfile": f"hub.example.com {{\n mercure {{\n  {text}\n }}\n}}"})
    assert left(conversion) == [("Caddyfile:3", name)]
    notes = "".join(map(str, conversion.notes))
    assert "hush" not in notes
    assert "MIIB" not in notes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com {\n respond 200\n}",
        "a {\n mercure {\n }",
        "}",
        'a {\n mercure {\n  cookie_name "x\n }\n}',
        "a <<END\n x",
        "a {\n" * 60,
        "\n" * 20_000,
    ],
)
def test_input_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(CaddyfileError):
        convert({"Caddyfile": text})


WITHOUT_BRACES = f"""
{{
    {{$GLOBAL_OPTIONS}}
}}

{{$SERVER_NAME:localhost}}

log {{
    format filter {{
        wrap console
        fields {{
            uri query {{
                replace authorization REDACTED
            }}
        }}
    }}
}}

{{$EXTRA_DIRECTIVES}}

route {{
    encode zstd gzip
    mercure {{
        transport_url {{$MERCURE_TRANSPORT_URL:bolt://mercure.db}}
        publisher_jwt "{SECRET}"
        cors_origins https://*.example.com
    }}
    respond /healthz 200
}}
"""


def test_a_site_without_braces_is_converted() -> None:
    """As in the Caddyfile of the Go hub until 0.14, and in articles."""
    conversion = convert({"Caddyfile": WITHOUT_BRACES})
    assert settings(conversion) == {
        "public_url": "https://localhost/.well-known/mercure",
        "transport_url": "sqlite:///mercure-hub.db",
        "publisher_jwt_key": SECRET,
        "cors_origins": "https://*.example.com",
        "log_format": "text",
    }
    assert [name for _, name in left(conversion)] == ["encode", "respond"]
    conversion = convert({"Caddyfile": WITHOUT_BRACES, ".env": "SERVER_NAME=hub.example.com\n"})
    assert settings(conversion)["public_url"] == "https://hub.example.com/.well-known/mercure"


@pytest.mark.parametrize(
    ("text", "url", "others"),
    [
        ("a.example", "https://a.example", []),
        ("a.example\n", "https://a.example", []),
        ("a.example, b.example", "https://a.example", ["b.example"]),
        ("a.example,\nb.example", "https://a.example", ["b.example"]),
        ("(snippet) {\n log\n}\na.example", "https://a.example", []),
        ("{\n}\nhttps://a.example:8443", "https://a.example:8443", []),
    ],
)
@pytest.mark.parametrize(
    "block", ["mercure {\n anonymous\n}", "route {\n mercure {\n  anonymous\n }\n}", "mercure"]
)
def test_addresses_of_a_site_without_braces_are_read(
    text: str, url: str, others: list[str], block: str
) -> None:
    conversion = convert({"Caddyfile": f"{text}\n{block}\n"})
    assert settings(conversion)["public_url"] == f"{url}/.well-known/mercure"
    assert [note.name for note in conversion.notes if "further address" in note.text] == others


def test_no_directive_is_taken_for_an_address() -> None:
    conversion = convert({"Caddyfile": "{$SERVER_NAME}\nroute {\n mercure {\n  anonymous\n }\n}"})
    assert settings(conversion) == {"anonymous": "1"}
    assert [note.name for note in conversion.notes if "names no host" in note.text] == ["site"]


@pytest.mark.parametrize("variable", ["MERCURE_PUBLIC_URL=https://right.example/hub"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_public_url_counts_before_the_address_of_the_site(variable: str, is_first: bool) -> None:
    texts = {"Caddyfile": "wrong.example {\n mercure {\n }\n}", ".env": f"{variable}\n"}
    conversion = convert(dict(sorted(texts.items(), reverse=is_first)))
    assert settings(conversion)["public_url"] == "https://right.example/hub"
    assert left(conversion) == []
    conversion = convert({".env": f"SERVER_NAME=wrong.example\n{variable}\n"})
    assert settings(conversion)["public_url"] == "https://right.example/hub"


def test_directives_beside_the_hub_are_noted() -> None:
    conversion = convert(
        {
            "Caddyfile": """
{
    https_port 8443
    debug
    log {
        output file /var/log/hub.log
        level WARN
    }
}
hub.example.com {
    tls /etc/tls/cert.pem /etc/tls/key.pem
    log {
        output file /var/log/access.log {
            roll_size 10MiB
            roll_keep 7
            roll_keep_for 720h
        }
        format json
    }
    mercure {
        anonymous
        transport_url bolt:///run/mercure/updates.db
        playground
    }
}
"""
        }
    )
    assert settings(conversion) == {
        "log_level": "debug",
        "log_file": "/var/log/hub.log",
        "tls_cert": "/etc/tls/cert.pem",
        "tls_key": "/etc/tls/key.pem",
        "access_log": "/var/log/access.log",
        "log_rotate": "10485760",
        "log_keep": "7",
        "log_format": "json",
        "anonymous": "1",
        "transport_url": "sqlite:////run/mercure/mercure-hub.db",
        "public_url": "https://hub.example.com:8443/.well-known/mercure",
        "listen": ":8443",
    }
    notes = "\n".join(map(str, conversion.notes))
    assert ": transport_url path: is gone when the machine has restarted" in notes
    assert ": playground: mints a token for everything; for development see MERCURE_PLAYGROUND" in notes
    assert [name for _, name in left(conversion)] == ["log level", "roll_keep_for", "playground"]
    assert "log level: stands at Caddyfile:4 with another value" in notes
    conversion.settings["publisher_jwt_key"] = (SECRET, "")
    assert load_settings(
        {f"MERCURE_{name.upper()}": value for name, (value, _) in conversion.settings.items()}, {}
    ).listen == ("", 8443)


@pytest.mark.parametrize(
    ("address", "listen", "url"),
    [
        (":80", ":80", None),
        (":8080", ":8080", None),
        (":443", None, None),
        ("http://hub.example.com", ":80", "http://hub.example.com"),
        ("http://hub.example.com:3000", ":3000", "http://hub.example.com:3000"),
        ("hub.example.com:80", ":80", "http://hub.example.com"),
        ("hub.example.com", None, "https://hub.example.com"),
        ("hub.example.com:8443", None, "https://hub.example.com:8443"),
    ],
)
def test_the_port_of_a_site_is_the_hubs_where_no_certificate_is_needed(
    address: str, listen: str | None, url: str | None
) -> None:
    conversion = convert({"Caddyfile": f"{address} {{\n mercure {{\n  anonymous\n }}\n}}"})
    found = settings(conversion)
    assert found.get("listen") == listen
    assert found.get("public_url") == (None if url is None else f"{url}/.well-known/mercure")


def test_a_start_script_is_converted() -> None:
    script = f"""#!/bin/sh
# the hub
export SERVER_NAME=:8080 MERCURE_PUBLISHER_JWT_ALG="HS256"
MERCURE_PUBLISHER_JWT_KEY="$(cat /run/secrets/publisher)" \\
MERCURE_SUBSCRIBER_JWT_KEY='{SECRET}' \\
  MERCURE_EXTRA_DIRECTIVES="anonymous
subscriptions" \\
  MERCURE_TRANSPORT_URL="bolt://$STATE/updates.db" \\
  MERCURE_TRUSTED_ISSUERS="$(cat /run/issuer)" \\
  exec ./mercure run --config Caddyfile
"""
    for text in (script, script.partition("\n")[2].replace("\nMERCURE_TRUSTED", "\n  MERCURE_TRUSTED")):
        conversion = convert({"start.sh": text})
        assert settings(conversion) == {
            "publisher_jwt_key": "@/run/secrets/publisher",
            "publisher_jwt_alg": "HS256",
            "subscriber_jwt_key": SECRET,
            "anonymous": "1",
            "subscriptions": "1",
            "listen": ":8080",
        }
        assert [name for _, name in left(conversion)] == [
            *("MERCURE_TRANSPORT_URL", "MERCURE_TRUSTED_ISSUERS", "a command", "SERVER_NAME"),
            "MERCURE_PUBLISHER_JWT_KEY",  # whose file is not here
        ]
    with pytest.raises(DotenvError, match=r"^start\.sh:2: the quote has no end$"):
        convert({"start.sh": "#!/bin/sh\nA='hush\n"})


def test_a_broken_environment_does_not_show_its_values() -> None:
    with pytest.raises(DotenvError, match=r"^\.env:2: is not NAME=VALUE$"):
        convert({".env": "A=1\nhush hush\n"})
    with pytest.raises(DotenvError, match=r"^\.env:1: the quote has no end$"):
        convert({".env": "A='hush\n"})


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "none")]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert main(["convert", str(binary)]) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_durations_and_sizes_of_caddy_are_converted() -> None:
    assert [seconds(text) for text in ("0", "0s", "40s", "1m30s", "500ms", "1.5h")] == [
        *("0", "0", "40", "90", "0.5", "5400")
    ]
    assert [size(text) for text in ("0", "1MiB", "512KB", "1.5 kib")] == ["0", "1048576", "512000", "1536"]
    for wrong in ("", "40", "-1s", "1s1", "s", "1 s"):
        with pytest.raises(ValueError, match="is not a duration"):
            seconds(wrong)
    for wrong in ("", "MB", "-1", "1XB"):
        with pytest.raises(ValueError, match="is not a size"):
            size(wrong)
