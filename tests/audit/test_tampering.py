"""Whatever is done to the trail, by whoever owns the database, is found, and where."""

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy.engine import make_url

from bursar.audit import chain, checkpoints
from bursar.audit.checkpoints import Checkpoint, CheckpointConflict, PlaceFails
from bursar.commands import audit as command
from tests import databases
from tests.audit.trail import Trail
from tests.conftest import Live
from tests.databases import SECRET
from tests.programs import bursar


@pytest.fixture
async def ten(trail: Trail) -> Trail:
    """Ten deeds, sealed; checkpoints at 5 and at 10, shipped and written down as shipped."""
    await trail.deeds(5)
    await trail.checkpoint()
    for n in range(6, 11):
        await trail.deed(str(n))
    await trail.checkpoint()
    await trail.fetch(
        "insert into audit_shipments (seq, place) select seq, $1 from audit_checkpoints",
        trail.place,
    )
    return trail


async def test_what_nobody_touched_is_unbroken(ten: Trail) -> None:
    await ten.deed("waits")
    report = await ten.verify()
    assert (report.ok, report.notes) == (True, [])
    assert (report.sealed, report.unsealed, report.confirmed_seq) == (10, 1, 10)


EDITS = {
    "event_type": "event_type = 'tests.undone'",
    "actor": "actor_id = null",
    "target": "target_id = '4 '",
    "after": """after = '{"word": "4"}'""",  # the same object, another text
    "nothing or empty": "impersonator_id = uuid_nil(), before = null",
    "time": "occurred_at = occurred_at + interval '1 microsecond'",
    "address": "address = null",
    "transaction": "xid = xid + 1",
    "field to field": "address = request_id, request_id = address",
}


@pytest.mark.parametrize("edit", EDITS)
async def test_an_edit_of_any_column_is_found(ten: Trail, edit: str) -> None:
    change = EDITS[edit].replace("uuid_nil()", "'00000000-0000-0000-0000-000000000000'")
    await ten.tamper(f"update audit_logs set {change} where target_id = '4'")
    [(log_id, seq)] = await ten.fetch("select log_id, seq from audit_seals where seq = 4")
    [finding] = (await ten.verify()).findings
    assert (finding.kind, finding.seq, finding.log_id) == ("row_edited", seq, str(log_id))
    assert str(log_id) in finding.detail


async def test_a_deleted_row_is_found(ten: Trail) -> None:
    await ten.tamper("delete from audit_logs where target_id = '4'")
    [finding] = (await ten.verify()).findings
    assert (finding.kind, finding.seq) == ("row_deleted", 4)
    assert finding.at is not None
    assert abs((datetime.now(UTC) - finding.at).total_seconds()) < 300


async def test_a_row_that_is_deleted_with_its_seal(ten: Trail) -> None:
    await ten.tamper(
        "delete from audit_logs where target_id in ('4', '5')",
        "delete from audit_seals where seq in (4, 5)",
    )
    [finding] = (await ten.verify()).findings
    assert (finding.kind, finding.seq) == ("seal_deleted", 4)
    assert "4 to 5" in finding.detail


async def test_a_row_that_is_deleted_before_it_was_sealed(ten: Trail) -> None:
    log_id = await ten.deed("waits")
    await ten.tamper("delete from audit_logs where target_id = 'waits'")
    [finding] = (await ten.verify()).findings
    assert (finding.kind, finding.log_id) == ("row_deleted", str(log_id))
    await ten.deed("next")
    await ten.seal()  # it stands in nobody's way
    assert len(await ten.fetch("select from audit_seals")) == 11


async def test_a_row_that_was_slipped_in_is_found(ten: Trail) -> None:
    """Past the function: it waits for no seal and will have none."""
    await ten.tamper(
        """insert into audit_logs (event_type, actor_kind, occurred_at, login_role, xid)
           select event_type, actor_kind, occurred_at, login_role, xid from audit_logs limit 1"""
    )
    [finding] = (await ten.verify()).findings
    assert finding.kind == "row_forged"
    assert finding.log_id in finding.detail


async def test_a_row_that_claims_to_be_old_is_noted(ten: Trail) -> None:
    await ten.tamper(
        """with forged as (
             insert into audit_logs (event_type, actor_kind, occurred_at, login_role, xid)
             values ('tests.forged', 'system', now() - interval '1 day', 'x', 3) returning id)
           insert into audit_unsealed select 3, id from forged"""
    )
    await ten.seal_all()
    report = await ten.verify()
    assert report.findings == []
    [note] = report.notes
    assert "seal 11" in note


async def test_rows_that_change_places_are_found(ten: Trail) -> None:
    await exchange(ten, "log_id", 3, 4)
    found = (await ten.verify()).findings
    assert [(f.kind, f.seq) for f in found] == [("reordered", 3), ("reordered", 4)]


async def test_seals_that_change_places_are_found(ten: Trail) -> None:
    await exchange(ten, "log_id", 3, 4)
    await exchange(ten, "digest", 3, 4)
    found = (await ten.verify()).findings
    assert [f.kind for f in found] == ["reordered", "reordered"]
    assert [f.seq for f in found] == [3, 4]


async def exchange(trail: Trail, column: str, one: int, other: int) -> None:
    pair = f"select seq, {column} from audit_seals where seq in ({one}, {other})"
    values = {row["seq"]: row[column] for row in await trail.fetch(pair)}
    await trail.tamper("alter table audit_seals drop constraint if exists uq_audit_seals_log_id")

    def literal(value: object) -> str:
        return f"'\\x{value.hex()}'" if isinstance(value, bytes) else f"'{value}'"

    await trail.tamper(
        f"update audit_seals set {column} = {literal(values[other])} where seq = {one}",
        f"update audit_seals set {column} = {literal(values[one])} where seq = {other}",
    )


async def test_a_seal_that_was_rewritten_is_found(ten: Trail) -> None:
    await ten.tamper("update audit_seals set hash = sha256('x') where seq = 4")
    found = (await ten.verify()).findings
    assert [(f.kind, f.seq) for f in found] == [("seal_edited", 4), ("seal_edited", 5)]


async def test_a_tail_that_was_cut_off_is_found(ten: Trail) -> None:
    await ten.tamper(
        "delete from audit_seals where seq > 7",
        "delete from audit_logs where target_id in ('8', '9', '10')",
    )
    for place in ("the folder", None):  # the database's own checkpoints tell as well
        [finding] = (await ten.verify(place)).findings
        assert (finding.kind, finding.seq) == ("tail_cut_off", 8)
        assert "ends at seal 7" in finding.detail


async def test_a_tail_that_was_cut_off_with_its_checkpoints(ten: Trail) -> None:
    await ten.tamper(
        "delete from audit_seals where seq > 7",
        "delete from audit_logs where target_id in ('8', '9', '10')",
        "delete from audit_checkpoints where seq > 7",
        "delete from audit_shipments where seq > 7",
    )
    found = (await ten.verify()).findings
    assert [f.kind for f in found] == ["database_restored", "checkpoint_deleted"]
    assert "ends at seal 7" in found[0].detail
    assert "seal 10" in found[0].detail


async def test_seals_alone_cut_off(ten: Trail) -> None:
    await ten.tamper("delete from audit_seals where seq > 9")
    found = (await ten.verify()).findings
    assert {f.kind for f in found} == {"tail_cut_off", "row_forged"}


async def test_a_restored_older_database_is_found(trail: Trail) -> None:
    """Copied whole when it had 5 rows, put back when it had 10; then it goes on from there."""
    await trail.deeds(5)
    await trail.checkpoint()
    backup = f"{make_url(trail.live.url).database}_backup"
    await trail.live.database.close()
    original = make_url(trail.live.url).database
    await databases.administer(f"create database {backup} template {original}")
    try:
        for n in range(6, 11):
            await trail.deed(str(n))
        await trail.checkpoint()
        await trail.live.database.close()
        await databases.drop(str(original))
        await databases.administer(
            f"create database {original} template {backup} owner {databases.OWNER}"
        )
        await databases.administer(f"grant connect on database {original} to public")
        found = (await trail.verify()).findings
        assert [f.kind for f in found] == ["database_restored", "checkpoint_deleted"]
        assert "ends at seal 5" in found[0].detail
        for n in range(6, 13):
            await trail.deed(f"another {n}")
        await trail.checkpoint(ship=False)
        found = (await trail.verify()).findings
        assert [f.kind for f in found] == ["chain_rewritten", "checkpoint_deleted"]
        assert "between seal 6 and 10" in found[0].detail
    finally:
        await databases.drop(backup)


async def test_a_chain_that_was_written_anew_is_found(ten: Trail) -> None:
    """Whoever knows all but the secret key: edits a row and makes every digest and hash again."""
    await ten.tamper("update audit_logs set event_type = 'tests.undone' where target_id = '7'")
    await rewrite(ten)
    found = (await ten.verify()).findings
    assert {f.kind for f in found} == {"chain_rewritten"}
    assert all("between seal 6 and 10" in f.detail for f in found)


async def rewrite(trail: Trail) -> None:
    rows = await trail.fetch(
        f"""select seq, {chain.CANONICAL} from audit_seals as seal
            join audit_logs as log on log.id = seal.log_id order by seq"""
    )
    [(installation,)] = await trail.fetch("select installation from audit_chains")
    before = chain.beginning(installation)
    for row in rows:
        digest = chain.digest(tuple(row)[1:])
        before = chain.link(before, digest)
        await trail.tamper(
            f"""update audit_seals set digest = '\\x{digest.hex()}', hash = '\\x{before.hex()}'
                where seq = {row["seq"]}"""
        )


async def test_a_checkpoint_that_was_edited_is_found(ten: Trail) -> None:
    await ten.tamper(
        """update audit_checkpoints set document = replace(document, '"count":10', '"count":11')
           where seq = 10"""
    )
    file = ten.files()[0]
    file.write_text("not even JSON")
    found = (await ten.verify()).findings
    assert [f.kind for f in found] == ["bad_checkpoint"] * 2
    assert file.name in found[0].detail
    assert "signature is wrong" in found[1].detail


async def test_a_checkpoint_by_another_key_is_not_believed(ten: Trail) -> None:
    """The chain written anew, and checkpoints made for it, by somebody without the secret key."""
    await ten.tamper("update audit_logs set event_type = 'tests.undone' where target_id = '7'")
    await rewrite(ten)
    [(installation, hash_)] = await ten.fetch(
        "select installation, hash from audit_chains, audit_seals where seq = 10"
    )
    forged = checkpoints.sign(
        Checkpoint(installation, 10, hash_, datetime.now(UTC)), ["another secret key, just as long"]
    )
    ten.files()[1].write_text(forged)
    await ten.tamper(f"update audit_checkpoints set document = '{forged}' where seq = 10")
    found = (await ten.verify()).findings
    assert [f.kind for f in found] == ["bad_checkpoint"] * 2
    assert all("BURSAR_SECRET_KEY" in f.detail for f in found)


async def test_an_older_secret_key_still_verifies(ten: Trail) -> None:
    keys = ["a new secret key, which is long enough", SECRET]
    ten.live.settings.__dict__["secret_keys"] = tuple(keys)
    try:
        await ten.deed("new")
        [(installation, hash_)] = await ten.fetch(
            "select installation, hash from audit_chains, audit_seals where seq = 10"
        )
        document = checkpoints.sign(Checkpoint(installation, 10, hash_, datetime.now(UTC)), keys)
        assert checkpoints.read(document, keys).seq == 10
        assert (await ten.verify()).ok
    finally:
        ten.live.settings.__dict__["secret_keys"] = (SECRET,)


async def test_a_key_that_is_gone_is_noted_once_younger_checkpoints_vouch(ten: Trail) -> None:
    new = "a new secret key, which is long enough"
    ten.live.settings.__dict__["secret_keys"] = (new,)
    try:
        assert set(await ten.kinds()) == {"bad_checkpoint"}  # nobody vouches yet
        [(installation, hash_)] = await ten.fetch(
            "select installation, hash from audit_chains, audit_seals where seq = 10"
        )
        document = checkpoints.sign(Checkpoint(installation, 10, hash_, datetime.now(UTC)), [new])
        ten.files()[1].write_text(document)
        report = await ten.verify()
        assert report.findings == []
        assert "3 checkpoint(s)" in report.notes[0]
    finally:
        ten.live.settings.__dict__["secret_keys"] = (SECRET,)


async def test_a_file_that_is_gone_is_found(ten: Trail) -> None:
    ten.files()[0].unlink()
    [finding] = (await ten.verify()).findings
    assert (finding.kind, finding.seq) == ("checkpoint_deleted", 5)


async def test_another_name_for_the_installation_is_found(ten: Trail) -> None:
    await ten.tamper(f"update audit_chains set installation = '{uuid4()}'")
    assert "installation_changed" in await ten.kinds()


async def test_a_checkpoint_is_never_written_twice(ten: Trail) -> None:
    [file, _] = ten.files()
    said = file.read_text()
    name = str(file.relative_to(ten.folder))
    await checkpoints.ship(ten.place, name, said.strip())  # the same again, after a crash
    with pytest.raises(CheckpointConflict):
        await checkpoints.ship(ten.place, name, said.strip().replace("5", "6"))
    assert file.read_text() == said
    assert json.loads(said)["seq"] == 5


async def test_a_place_that_fails_says_so(live_db: Live) -> None:
    with pytest.raises(PlaceFails):
        await checkpoints.ship("file:///dev/null/nowhere", "a/1.json", "{}")


async def test_the_command_says_where_and_ends_with_1(ten: Trail) -> None:
    given = {"DATABASE_URL": ten.live.url, "BURSAR_SECRET_KEY": SECRET}
    given["BURSAR_DATA"] = str(ten.folder.parent)
    words = ("audit", "verify", "--checkpoints", ten.place)
    good = bursar(*words, **given)
    assert (good.code, good.stdout.partition(" (")[0]) == (
        0,
        "The audit trail: unbroken, 10 rows sealed, 0 not sealed yet, confirmed up to seal 10",
    )
    await ten.tamper("update audit_logs set address = null where target_id = '4'")
    bad = bursar(*words, "--json", **given)
    answer = json.loads(bad.stdout)
    assert (bad.code, answer["ok"], answer["sealed"]) == (1, False, 10)
    assert [(f["kind"], f["seq"]) for f in answer["findings"]] == [("row_edited", 4)]
    assert "row_edited\tThe row" in bursar(*words, **given).stdout


async def test_it_says_when_nothing_outside_is_a_witness(ten: Trail) -> None:
    given = {"DATABASE_URL": ten.live.url, "BURSAR_SECRET_KEY": SECRET}
    given["BURSAR_DATA"] = str(ten.folder.parent)
    alone = bursar("audit", "verify", **given)
    assert "confirmed up to seal 10 by the database's own table only (" in alone.stdout
    await ten.deed("eleventh")
    await ten.checkpoint(ship=False)
    report = await ten.verify()
    assert (report.confirmed_seq, report.witnessed_seq) == (11, 10)
    said = "confirmed up to seal 11, from seal 11 by the database's own table only"
    assert command.confirmation(report) == said


async def test_a_trail_that_is_empty_though_people_are_there_is_noted(trail: Trail) -> None:
    assert command.confirmation(await trail.verify()) == "confirmed by no checkpoint"
    insert = "insert into users (email, name, created_at) values ('c@example.com', 'C', now() - "
    await trail.fetch(f"{insert} interval '50 minutes')")
    assert (await trail.verify()).notes == []
    await trail.fetch("update users set created_at = now() - interval '70 minutes'")
    report = await trail.verify()
    assert report.findings == []
    [note] = report.notes
    assert note.startswith("The trail is empty, although")


async def test_progress_is_told(ten: Trail, capsys: pytest.CaptureFixture[str]) -> None:
    report = await command.examine(ten.live.url, ten.live.settings, None)
    assert report.ok
    assert capsys.readouterr().err == "10 of 10 seals\n"
