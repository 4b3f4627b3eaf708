"""`cdds artifacts decrypt` on files of the pipeline and of stock openssl."""

import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from cli.artifacts import unnamed
from cli.artifacts.failures import explained
from tests.cli.exports import ANNA, BERT, ROWS, Installation, Run, cdds, flip, make_run, write_certificate, write_key
from tests.exporter.test_pipeline_cms import identity

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
every_profile = pytest.mark.parametrize("encryption", ["gcm", "smime", "none"])


def decrypt(*arguments: str | Path):
    return cdds("artifacts", "decrypt", *arguments)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@every_profile
@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_a_folder_becomes_rows(installation: Installation, key: Path, rows: Path, encryption: str, format: str) -> None:
    run = make_run(installation, encryption=encryption, format=format)
    assert len(run.parts) > 1

    told = decrypt(installation.folder, "--key", key, "--into", rows, "--output", "json")

    assert (told.code, told.err) == (0, "")
    assert files(rows) == run.plain
    assert {file["proof"] for file in told.json["files"]} == {"signed manifest"}
    assert told.json["rows"] == 300
    assert [file["rows"] for file in told.json["files"]] == [part["rows"] for part in run.manifest["parts"]]
    assert {(rows / name).stat().st_mode & 0o777 for name in run.plain} == {0o600}


def test_the_table_names_every_file(installation: Installation, key: Path, rows: Path) -> None:
    run = make_run(installation, split_bytes=None)

    told = decrypt(run.manifest_path, "--key", key, "--into", rows)

    assert (told.code, told.err) == (0, "")
    assert "300 rows in 1 file(s)." in told.out


@pytest.mark.parametrize("who", [ANNA, BERT])
@pytest.mark.parametrize("encryption", ["gcm", "smime"])
@pytest.mark.parametrize("with_certificate", [True, False])
def test_each_recipient_decrypts(
    installation: Installation, tmp_path: Path, rows: Path, who: tuple, encryption: str, with_certificate: bool
) -> None:
    run = make_run(installation, encryption=encryption)
    options = ["--certificate", write_certificate(tmp_path, who[1])] if with_certificate else []

    told = decrypt(*run.parts, "--key", write_key(tmp_path, who[0]), *options, "--into", rows)

    assert told.code == 0, told.err
    assert files(rows) == run.plain


@pytest.mark.parametrize(
    ("encryption", "proof", "warned"),
    [("gcm", "encryption only", False), ("smime", "nothing", True), ("none", "nothing", True)],
)
def test_without_a_manifest_it_says_what_is_proved(
    installation: Installation, key: Path, rows: Path, encryption: str, proof: str, warned: bool
) -> None:
    run = make_run(installation, encryption=encryption, split_bytes=None)
    run.manifest_path.unlink()

    told = decrypt(*run.parts, "--key", key, "--into", rows, "--output", "json")

    assert told.code == 0
    assert files(rows) == run.plain
    assert [file["proof"] for file in told.json["files"]] == [proof]
    assert ("nothing proves that" in told.err) is warned


def test_without_signing_keys_it_says_that_the_signature_was_not_checked(
    installation: Installation, key: Path, rows: Path
) -> None:
    run = make_run(installation)
    (installation.folder / "signing-keys.json").unlink()

    told = decrypt(*run.parts, "--key", key, "--into", rows)

    assert told.code == 0
    assert "signature was not checked" in told.err


def test_a_manifest_of_somebody_else_stops_it(installation: Installation, key: Path, rows: Path) -> None:
    run = make_run(Installation(installation.folder))

    told = decrypt(*run.parts, "--key", key, "--into", rows)

    assert told.code == 3
    assert "not among the signing keys" in told.err
    assert files(rows) == {}


@every_profile
@pytest.mark.parametrize("place", [0.001, 0.3, 0.5, 0.7, 0.95, 0.999])
def test_a_flipped_byte_leaves_nothing_or_changes_nothing(
    installation: Installation, key: Path, rows: Path, encryption: str, place: float
) -> None:
    """The names of recipients and the directory of a zip mean nothing to who decrypts: then the content is right."""
    run = make_run(installation, encryption=encryption, split_bytes=None)
    (part,) = run.parts
    flip(part, int(part.stat().st_size * place))

    told = decrypt(part, "--key", key, "--into", rows)

    if told.code == 0:
        assert place in (0.001, 0.999)
        assert files(rows) == run.plain
    else:
        assert told.code in (1, 3)
        assert files(rows) == {}
        assert told.err.startswith(f"cdds: {part}: ")
        assert told.err.count("\n") == 1
    if encryption == "gcm" and 0.1 < place < 0.99:
        assert "was changed after it was written" in told.err


def test_a_changed_text_of_old_is_noticed_by_the_manifest_only(
    installation: Installation, key: Path, rows: Path
) -> None:
    """CBC is malleable; inside a zip the CRC still notices, so a stored zip with a new CRC is what it takes."""
    run = make_run(installation, encryption="smime", split_bytes=None, rows=ROWS[:1])
    forged = make_run(installation, encryption="smime", split_bytes=None, rows=ROWS[1:2])
    run.parts[0].write_bytes(forged.parts[0].read_bytes())

    told = decrypt(run.parts[0], "--key", key, "--into", rows)

    assert told.code == 3
    assert "the manifest says" in told.err
    assert files(rows) == {}


@every_profile
def test_a_truncated_part_leaves_nothing(installation: Installation, key: Path, rows: Path, encryption: str) -> None:
    (part,) = make_run(installation, encryption=encryption, split_bytes=None).parts
    content = part.read_bytes()
    for size in (0, 1, 50, len(content) // 2, len(content) - 3):
        part.write_bytes(content[:size])

        told = decrypt(part, "--key", key, "--into", rows)

        assert told.code == 3, told.err
        assert "fetch it again" in told.err
        assert files(rows) == {}


@every_profile
def test_a_stranger_gets_one_line(installation: Installation, tmp_path: Path, rows: Path, encryption: str) -> None:
    if encryption == "none":
        pytest.skip("there is no key to it")
    (part,) = make_run(installation, encryption=encryption, split_bytes=None).parts
    stranger, certificate = identity("stranger")
    key = write_key(tmp_path, stranger)

    for options in ([], ["--certificate", write_certificate(tmp_path, certificate)]):
        told = decrypt(part, "--key", key, *options, "--into", rows)
        assert (told.code, told.out) == (1, "")
        assert "was not encrypted for this key" in told.err
    other = decrypt(part, "--key", key, "--certificate", write_certificate(tmp_path, ANNA[1]), "--into", rows)
    assert other.code == 1
    assert "does not belong to" in other.err
    assert files(rows) == {}


@pytest.mark.parametrize("content", [b"", b"hello", b"\x30\x80" + b"\x00" * 100, b"\xff" * 5000, b"PK\x03\x04junk"])
@pytest.mark.parametrize("suffix", ["zip.p7m", "zip.smime", "zip"])
def test_other_files_are_refused_in_one_line(
    tmp_path: Path, key: Path, rows: Path, suffix: str, content: bytes
) -> None:
    other = tmp_path / f"other [bold].{suffix}"
    other.write_bytes(content)

    told = decrypt(other, "--key", key, "--into", rows)

    assert told.code == 3
    assert told.err.startswith(f"cdds: {other}: ")
    assert told.err.count("\n") == 1
    assert files(rows) == {}


def test_what_goes_wrong_before_anything_is_read_is_explained(
    installation: Installation, tmp_path: Path, key: Path, rows: Path
) -> None:
    (part,) = make_run(installation, split_bytes=None).parts
    (tmp_path / "text.pem").write_text("no key")
    (tmp_path / "letter.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([part], "give your private key with --key"),
        ([part, "--key", tmp_path / "missing.pem"], "no such file"),
        ([part, "--key", tmp_path / "text.pem"], "no private key in PEM form"),
        ([part, "--key", key, "--certificate", tmp_path / "text.pem"], "no PEM certificate"),
        ([tmp_path / "missing.zip.p7m", "--key", key], "no such file"),
        ([tmp_path / "letter.txt", "--key", key], "not named like a part"),
        ([tmp_path / "empty", "--key", key], "there are no parts"),
        ([part, "--key", key, "--into", key / "below"], "a part of the path is a file"),
    ):
        told = decrypt(*arguments, *([] if "--into" in arguments else ["--into", rows]))
        assert (told.code, told.out) == (1, ""), told
        assert said in told.err
        assert told.err.count("\n") == 1


def test_a_file_that_exists_is_only_replaced_by_force(installation: Installation, key: Path, rows: Path) -> None:
    run = make_run(installation, split_bytes=None)
    (name,) = run.plain
    rows.mkdir()
    (rows / name).write_bytes(b"mine")

    refused = decrypt(*run.parts, "--key", key, "--into", rows)
    kept = files(rows)
    forced = decrypt(*run.parts, "--key", key, "--into", rows, "--force")

    assert (refused.code, kept) == (1, {name: b"mine"})
    assert "--force" in refused.err
    assert (forced.code, files(rows)) == (0, run.plain)


def test_the_other_parts_are_decrypted_when_one_is_damaged(installation: Installation, key: Path, rows: Path) -> None:
    run = make_run(installation)
    flip(run.parts[1], -100)

    told = decrypt(installation.folder, "--key", key, "--into", rows)

    assert told.code == 3
    assert set(run.plain) - set(files(rows)) == {run.manifest["parts"][1]["entry"]}
    assert f"1 of {len(run.parts)} parts were not decrypted" in told.err


def test_an_encrypted_key_takes_its_passphrase_from_a_file(
    installation: Installation, tmp_path: Path, rows: Path
) -> None:
    run = make_run(installation, split_bytes=None)
    key = write_key(tmp_path, ANNA[0], b"correct horse")
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")

    none = decrypt(*run.parts, "--key", key, "--into", rows)
    wrong = decrypt(*run.parts, "--key", key, "--into", rows, "--passphrase-file", tmp_path / "wrong")
    right = decrypt(*run.parts, "--key", key, "--into", rows, "--passphrase-file", tmp_path / "right")

    assert (none.code, wrong.code, right.code) == (1, 1, 0)
    assert "--passphrase-file" in none.err
    assert "the passphrase is wrong" in wrong.err


def test_an_encrypted_key_asks_for_its_passphrase_at_a_terminal(
    installation: Installation, tmp_path: Path, rows: Path
) -> None:
    run = make_run(installation, split_bytes=None)
    key = write_key(tmp_path, ANNA[0], b"correct horse")
    command = [sys.executable, "-m", "cli", "artifacts", "decrypt", run.manifest_path, "--key", key, "--into", rows]

    terminal, side = pty.openpty()
    with subprocess.Popen(command, stdin=side, stdout=side, stderr=side, start_new_session=True) as process:
        os.close(side)
        shown = b""
        while not shown.endswith(b": "):
            shown += os.read(terminal, 1000)
        os.write(terminal, b"correct horse\n")
        with suppress(OSError):  # the other side of the terminal is gone
            while more := os.read(terminal, 1000):
                shown += more
    os.close(terminal)

    assert process.returncode == 0, shown
    assert b"horse" not in shown
    assert files(rows) == run.plain


@pytest.mark.parametrize("name", ["../escaped.jsonl", "/tmp/escaped.jsonl", ".hidden.jsonl", "a\\b.jsonl", "x.exe"])
def test_a_zip_can_not_name_a_place_elsewhere(tmp_path: Path, rows: Path, name: str) -> None:
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"{}\n")

    told = decrypt(evil, "--into", rows)

    assert told.code == 3
    assert files(rows) == {}
    assert not (tmp_path / "escaped.jsonl").exists()


def test_a_zip_with_two_files_or_none_is_refused(tmp_path: Path, rows: Path) -> None:
    for count in (0, 2):
        with zipfile.ZipFile(tmp_path / "odd.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(count):
                archive.writestr(f"{number}.jsonl", b"{}\n")
        told = decrypt(tmp_path / "odd.zip", "--into", rows)
        assert told.code == 3, told
        assert files(rows) == {}


def test_more_content_than_the_manifest_says_ends_early(installation: Installation, rows: Path) -> None:
    """A zip of 300 kB can hold 300 MB; the disk is not filled with what is wrong anyway."""
    run = make_run(installation, encryption="none", split_bytes=None)
    with zipfile.ZipFile(run.parts[0], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(next(iter(run.plain)), bytes(300_000_000))

    told = decrypt(run.parts[0], "--into", rows)

    assert told.code == 3
    assert "more than the" in told.err
    assert files(rows) == {}


@needs_openssl
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("zip.smime", ["smime", "-encrypt", "-binary", "-aes-256-cbc"]),
        ("zip.smime", ["cms", "-encrypt", "-binary", "-aes-256-cbc", "-stream"]),
        ("zip.p7m", ["cms", "-encrypt", "-binary", "-aes-256-gcm", "-outform", "DER", "-recip"]),
        ("zip.p7m", ["cms", "-encrypt", "-binary", "-aes-256-gcm", "-outform", "DER", "-stream", "-recip"]),
    ],
)
def test_what_stock_openssl_encrypted_is_decrypted(
    tmp_path: Path, key: Path, rows: Path, suffix: str, options: list[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "plain", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", b"{}\n" * 100_000)
    certificate = write_certificate(tmp_path, ANNA[1])
    oaep = ["-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256"]
    recipient = [certificate, *oaep] if options[-1] == "-recip" else [certificate]
    subprocess.run(
        ["openssl", *options, *recipient, "-in", tmp_path / "plain", "-out", tmp_path / f"sealed.{suffix}"]
        if options[-1] == "-recip"
        else ["openssl", *options, "-in", tmp_path / "plain", "-out", tmp_path / f"sealed.{suffix}", *recipient],
        check=True,
        capture_output=True,
    )

    told = decrypt(tmp_path / f"sealed.{suffix}", "--key", key, "--into", rows)

    assert told.code == 0, told.err
    assert files(rows) == {"rows.jsonl": b"{}\n" * 100_000}


# --- the machine's limits -------------------------------------------------------------------------------------------


def start(*arguments: str | Path, limit: Callable[[], None] = lambda: None) -> subprocess.Popen[str]:
    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests run in the background of a shell
        limit()

    return subprocess.Popen(
        [sys.executable, "-m", "cli", "artifacts", "decrypt", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare,
    )  # fmt: skip


def large(installation: Installation, megabytes: int, encryption: str) -> Run:
    """Rows of 1 KiB, hardly compressible, so that the stored part is large, too."""
    noise = Random(1)
    rows = [noise.randbytes(1023).replace(b"\n", b" ") + b"\n" for _ in range(128)]
    return make_run(
        installation, encryption=encryption, split_bytes=None, rows=rows * (megabytes * 8), recipients=[ANNA[1]]
    )


MEASURED = """
import sys
from pathlib import Path
from cli.__main__ import main
try:
    main()
finally:
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(peak.split()[1], file=sys.stderr)
"""


@pytest.mark.parametrize("encryption", ["gcm", "smime"])
def test_memory_stays_flat(installation: Installation, key: Path, rows: Path, encryption: str) -> None:
    run = large(installation, 300, encryption)
    (name,) = run.plain
    assert len(run.plain[name]) == 300 * 1024**2
    assert run.parts[0].stat().st_size > 150 * 1024**2

    command = ["artifacts", "decrypt", str(run.parts[0]), "--key", str(key), "--into", str(rows)]
    ended = subprocess.run([sys.executable, "-c", MEASURED, *command], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert (rows / name).read_bytes() == run.plain[name]
    # Without a file in memory the interpreter and its libraries take about 100 MB.
    assert int(ended.stderr) * 1024 < 150 * 1024**2


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(installation: Installation, key: Path, rows: Path) -> None:
    run = large(installation, 8, "gcm")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024**2, 1024**2))

    with start(run.parts[0], "--key", key, "--into", rows, limit=limit) as process:
        _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "choose another folder with --into" in err
    assert err.count("\n") == 1
    assert files(rows) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_leaves_nothing(
    installation: Installation, tmp_path: Path, key: Path, rows: Path, number: signal.Signals
) -> None:
    """The part is a pipe that never ends, so that the process surely waits in the middle of it."""
    run = large(installation, 8, "gcm")
    pipe = tmp_path / "endless.zip.p7m"
    os.mkfifo(pipe)

    with start(pipe, "--key", key, "--into", rows) as process, pipe.open("wb") as half:
        content = run.parts[0].read_bytes()
        half.write(content[: len(content) // 2])
        half.flush()
        while not (unnamed_bytes(process.pid, rows) and sleeps(process.pid)):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)

    assert process.returncode != 0
    assert "Traceback" not in err
    assert files(rows) == {}


def unnamed_bytes(pid: int, folder: Path) -> int:
    """How much the process has written into files of the folder."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(link.readlink()).startswith(f"{folder}/"):
                return link.stat().st_size
        except OSError:
            continue
    return 0


def sleeps(pid: int) -> bool:
    """A signal that comes between two reads of the interpreter is only heard after the second one."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


class TestWithoutNamelessFiles:
    """On file systems that can't do them, the hidden name is gone after a failure."""

    @pytest.fixture(autouse=True)
    def old_file_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "O_TMPFILE")

    def test_the_file_appears_when_it_is_proved(self, installation: Installation, key: Path, rows: Path) -> None:
        run = make_run(installation)
        assert decrypt(installation.folder, "--key", key, "--into", rows).code == 0
        assert files(rows) == run.plain
        assert decrypt(installation.folder, "--key", key, "--into", rows).code == 1
        assert decrypt(installation.folder, "--key", key, "--into", rows, "--force").code == 0
        assert files(rows) == run.plain

    def test_nothing_stays_of_what_is_not(self, installation: Installation, key: Path, rows: Path) -> None:
        run = make_run(installation, split_bytes=None)
        flip(run.parts[0], -100)
        assert decrypt(installation.folder, "--key", key, "--into", rows).code == 3
        assert files(rows) == {}


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with unnamed.unnamed(tmp_path) as file:
        file.write(b"ours")
        (tmp_path / "rows.jsonl").write_bytes(b"theirs")
        with pytest.raises(FileExistsError):
            file.publish("rows.jsonl", replace=False)

    assert files(tmp_path) == {"rows.jsonl": b"theirs"}


@pytest.mark.parametrize("number", [13, 28, 30, 122])
def test_errors_of_the_system_say_what_to_do(number: int) -> None:
    failure = explained(OSError(number, os.strerror(number), "/somewhere/file"))

    assert str(failure).startswith("/somewhere/file: ")
    assert any(word in str(failure) for word in ("choose", "check"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_may_not_be_read_is_explained(installation: Installation, key: Path, rows: Path) -> None:
    key.chmod(0)

    told = decrypt(*make_run(installation).parts, "--key", key, "--into", rows)

    assert told.code == 1
    assert "permission denied" in told.err
