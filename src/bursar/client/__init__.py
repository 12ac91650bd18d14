"""For other services of the business: ASGI middleware that asks Bursar before each call.

    from bursar.client import BursarKeys

    app = BursarKeys(app, url="https://bursar.example", service_key=os.environ["SERVICE_KEY"])

Importing it is cheap: nothing of the server comes with it. docs/guide/middleware.md says the rest.
"""

from bursar.client.callers import Caller
from bursar.client.middleware import BursarKeys

__all__ = ["BursarKeys", "Caller"]
