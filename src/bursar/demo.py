"""Demo data: a small company that looks alive, made through the services that everything uses."""

from bursar.auth.actor import operator
from bursar.auth.permissions import StaffRole
from bursar.core.database import Database
from bursar.system import queries as system_queries
from bursar.system import service as system

SETTINGS = {"company_name": "Tern & Tide Roasters", "support_email": "help@ternandtide.example"}


async def load(database: Database) -> dict[str, int]:
    """Whole or not at all; loading it again changes nothing."""
    async with database.transaction(operator(StaffRole.OWNER).claim) as db:
        changed = {view.key for view in await system_queries.settings(db) if view.version}
        wanted = {key: value for key, value in SETTINGS.items() if key not in changed}
        if wanted:
            await system.change(db, wanted)
    return {"settings": len(SETTINGS)}
