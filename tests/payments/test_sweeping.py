"""What payments do by themselves: nothing stays in doubt, and what cannot be asked stops nobody."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from bursar.core.database import WORKER
from bursar.payments import tasks
from tests.accounts.people import actions, rows
from tests.payments.shop import PAYMENTS, Shop
from tests.payments.tills import intend, state
from tests.wallets.purses import balance_of
from tests.world import CARL, DORA

OLD = "update payments set asked_at = now() - interval '{}' where provider_state = '{}'"


async def run(shop: Shop, cron: Any) -> None:
    async with shop.live.database.transaction(WORKER) as db:
        await cron(db, {})
    await shop.work()


async def test_a_payment_whose_webhook_was_lost_is_looked_at_after_a_day(shop: Shop) -> None:
    begun = await shop.pay(CARL, 20)
    await run(shop, tasks.look_after)
    assert (await shop.read(begun["id"]))["status"] == "pending"  # it waits for a few minutes only
    await rows(shop.live, OLD.format("21 hours", "waiting"))
    await run(shop, tasks.look_after)
    assert (await shop.read(begun["id"]))["status"] == "completed"
    assert await balance_of(shop.live, CARL) == 20


async def test_what_nobody_goes_on_with_is_given_up(shop: Shop) -> None:
    begun = await shop.begin(CARL, 20)
    paid = await shop.pay(CARL, 30)
    await rows(shop.live, OLD.format("21 hours", "waiting"))
    await rows(shop.live, "alter table payments disable trigger advance_payment")
    await rows(shop.live, "update payments set created_at = now() - interval '4 days'")
    await rows(shop.live, "alter table payments enable trigger advance_payment")
    await run(shop, tasks.look_after)
    assert (await shop.read(begun["id"]))["status"] == "failed"
    assert (await shop.read(paid["id"]))["status"] == "completed"  # it was paid meanwhile
    assert await balance_of(shop.live, CARL) == 30


async def test_a_payment_of_a_provider_that_is_gone_keeps_nobody_waiting(shop: Shop) -> None:
    given: dict[str, Any] = {"payment_method": "paypal", "provider": "paypal"}
    stuck = await intend(shop.live, CARL, 20, **given)
    shop.stripe.fail("POST", "/v1/payment_intents", "before")
    begun = await shop.begin(DORA, 30)
    assert begun["next_action"] is None
    await rows(shop.live, "update payments set asked_at = now() - interval '3 hours'")
    await run(shop, tasks.sweep)
    assert (await shop.read(begun["id"]))["providerState"] == "waiting"
    assert (await state(shop.live, stuck))[0] == "pending"


async def test_a_refund_is_found_although_stripe_has_forgotten_its_key(shop: Shop) -> None:
    """After a day of doubt; a part would go back twice otherwise."""
    paid = await shop.paid(CARL, 20)
    shop.stripe.fail("POST", "/v1/refunds", "after")
    await shop.refund(paid["id"], 5)
    shop.stripe.forget_keys()
    await rows(shop.live, "alter table refunds disable trigger count_refund")
    await rows(shop.live, "update refunds set created_at = now() - interval '2 days'")
    await rows(shop.live, "alter table refunds enable trigger count_refund")
    await rows(shop.live, "update refunds set asked_at = now() - interval '2 hours'")
    await run(shop, tasks.sweep)
    assert len(shop.stripe.books("refund")) == 1
    assert await state(shop.live, paid["id"]) == ("partially_refunded", Decimal(20), Decimal(5))


async def test_doubt_begins_anew_after_each_answer(shop: Shop) -> None:
    """A customer who looks often does not make the sweeper slow."""
    begun = await shop.begin(CARL, 20)
    for _ in range(5):
        await shop.post(CARL, f"{PAYMENTS}/{begun['id']}/confirmation")
    [row] = await rows(shop.live, "select attempts from payments where id = $1", UUID(begun["id"]))
    assert row["attempts"] == 1


async def test_giving_up_what_was_never_begun_at_the_provider_ends_it_there_too(
    shop: Shop,
) -> None:
    shop.stripe.fail("POST", "/v1/payment_intents", "after")
    begun = await shop.begin(CARL, 20)
    answer = await shop.post(CARL, f"{PAYMENTS}/{begun['id']}/cancellation")
    assert answer.json()["status"] == "failed"
    assert [each["status"] for each in shop.stripe.books("payment_intent")] == ["canceled"]


async def test_a_customer_gives_up_a_bank_transfer(shop: Shop) -> None:
    begun = await shop.begin(CARL, 20, payment_method="bank_transfer")
    path = f"{PAYMENTS}/{begun['id']}/cancellation"
    assert (await shop.post(DORA, path)).status_code == 404
    for _ in range(2):
        assert (await shop.post(CARL, path)).json()["status"] == "failed"
    trail = await actions(shop.live, begun["id"])
    assert trail == ["payments.asked_for", "payments.given_up"]
    [last] = await rows(
        shop.live, "select changed_by from payment_audits where new_status = 'failed'"
    )
    assert last["changed_by"] == f"customer:{CARL.id}"


async def test_a_refund_that_stripe_does_not_show_keeps_no_other_waiting(shop: Shop) -> None:
    for _ in range(2):
        paid = await shop.paid(CARL, 20)
        shop.stripe.fail("POST", "/v1/refunds", "after")
        await shop.refund(paid["id"], 5)
    _, second = [each["id"] for each in shop.stripe.books("refund")]
    await rows(
        shop.live,
        "update refunds set provider_state = 'waiting', provider_refund_id = named.name,"
        " asked_at = now() - interval '21 hours' + interval '1 minute' * named.place"
        " from (select id as refund_id, (array[$1, $2])[row_number() over (order by id)] as name,"
        " row_number() over (order by id) as place from refunds) as named where id = refund_id",
        "re_of_another_account",
        second,
    )
    await run(shop, tasks.look_after)
    query = "select status from refunds order by id"
    assert [row["status"] for row in await rows(shop.live, query)] == ["pending", "completed"]
