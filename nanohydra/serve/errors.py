"""What a request can be told instead of an answer, with the HTTP status that says so."""

from __future__ import annotations


class ApiError(Exception):
    """A request that is refused. The message is for its sender; `code` is for programs, as OpenAI names them."""

    status = 400
    kind = "invalid_request_error"

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        """Seconds after which it is worth trying again."""


class Unauthorized(ApiError):
    """No token, or none that counts."""

    status, kind = 401, "authentication_error"


class Forbidden(ApiError):
    """A token without the right that is needed, or a web page that may not ask."""

    status, kind = 403, "permission_error"


class Missing(ApiError):
    """Nothing has this name (or nothing that the caller may see)."""

    status, kind = 404, "not_found_error"


class TooLarge(ApiError):
    """A body beyond the limit."""

    status = 413


class TooMany(ApiError):
    """The caller's quota or rate, or the server's queue, is used up."""

    status, kind = 429, "rate_limit_error"


class EngineBroke(ApiError):
    """The engine broke down while it answered."""

    status, kind = 500, "server_error"


class Unavailable(ApiError):
    """The engine cannot take requests now."""

    status, kind = 503, "service_unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=5)
