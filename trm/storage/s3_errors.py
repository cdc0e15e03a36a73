"""Errors of S3 requests: which ones are transient, and what the user can do about the others.

The codes are those of AWS (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html) and of servers with the
same API. An error without a code of S3 comes from a proxy, or from a server that is not an S3 server.
"""

import re
import socket
import ssl
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

TRANSIENT_CODES = {
    "RequestTimeout",
    "InternalError",
    "BadDigest",
    "ConditionalRequestConflict",
    "OperationAborted",
    # Throttling, also by STS and other sources of credentials.
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "TooManyRequestsException",
    "PriorRequestNotComplete",
    "TransactionInProgressException",
    "EC2ThrottledException",
    "IDPCommunicationError",
}
"""Error codes besides 5xx and 429 that are transient."""
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
"""The credentials have expired; the source of the credentials may have newer ones."""
REGION_CODES = {
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "IllegalLocationConstraintException",
    "InvalidRegion",
    "PermanentRedirect",
    "301",
}
QUOTA_CODES = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"}
REMEDIES = {
    "InvalidAccessKeyId": "the server does not know this access key; correct AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY or the profile",
    "InvalidToken": "the session token is wrong; correct or unset AWS_SESSION_TOKEN, or log in again",
    "AccessDenied": "these credentials lack the permission; use others, or grant the permission",
    "NoSuchBucket": "the bucket does not exist; create it or correct the address",
    "NotImplemented": "use a server with conditional writes, such as AWS or SeaweedFS",
    "RequestTimeTooSkewed": "the clock of this machine differs from the server's; set the clock",
    "SecondLevelDomainForbidden": "set `addressing_style = virtual` below `s3 =` in the file AWS_CONFIG_FILE",
    "407": "the proxy requires a password; add it to HTTPS_PROXY or HTTP_PROXY, or name the server in NO_PROXY",
}
REMEDIES |= dict.fromkeys(EXPIRED_CODES, "the session token has expired; log in again, or renew AWS_SESSION_TOKEN")
REMEDIES |= dict.fromkeys(REGION_CODES, "set AWS_REGION to the region of the bucket")
REMEDIES |= dict.fromkeys(QUOTA_CODES, "the server's storage or quota is full; delete objects or raise the quota")
OTHER_SERVER = "correct AWS_ENDPOINT_URL_S3, or HTTPS_PROXY and NO_PROXY if there is a proxy"
SPEAKS_TLS = "the server expects TLS; write https:// in AWS_ENDPOINT_URL_S3"
NO_TLS_OR_TRUST = "CERTIFICATE_VERIFY_FAILED|doesn't match|WRONG_VERSION|RECORD_LAYER|record layer|HTTP_REQUEST"
PROBE_TIMEOUT = 3.0
"""Seconds for the test whether a server expects TLS."""


@runtime_checkable
class Closable(Protocol):
    """A body that is read from its connection."""

    def close(self) -> None:
        """Close the connection."""
        ...


class ForeignAnswerError(Exception):
    """A response that does not come from an S3 server."""


def reject_pages(response_dict: dict[str, Any], **_: object) -> None:
    """Raise `ForeignAnswerError` for a web page as the response of a successful request.

    A handler of botocore's event `before-parse.s3`. Servers send the page of a report with the same type, but with the
    header of an S3 response.
    """
    headers = response_dict["headers"]
    page = "html" in headers.get("content-type", "") and "x-amz-request-id" not in headers
    if response_dict["status_code"] < 300 and page:
        close_body(response_dict["body"])
        raise ForeignAnswerError


def close_body(body: object) -> None:
    """Close the connection of a response whose body is not read."""
    if isinstance(body, Closable):
        body.close()


def is_transient(error: BaseException | None) -> bool:
    """Whether the same request may succeed later."""
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        code, status = code_of(error), _status(error)
        server_fault = status >= 500 and status not in (501, 507) and code not in QUOTA_CODES
        # botocore reports a web page in place of a list as error 500; gateways use 502 to 504 for their own pages.
        return code in TRANSIENT_CODES or status == 429 or (server_fault and not (status == 500 and _is_html(error)))
    for kind, permanent in _PERMANENT.items():
        if isinstance(error, getattr(boto, kind)):
            return not permanent(error)
    passing = (boto.IncompleteReadError, boto.ResponseStreamingError, boto.MetadataRetrievalError)
    return is_network_error(error) or isinstance(error, passing)


_PERMANENT: dict[str, Callable[[Any], bool]] = {
    "SSLError": lambda error: bool(re.search(NO_TLS_OR_TRUST, str(error))),
    "ProxyConnectionError": lambda error: " 407 " in str(error.kwargs.get("error")),
    "ConnectionClosedError": lambda error: _expects_tls(str(error.kwargs.get("endpoint_url"))),
    "CredentialRetrievalError": lambda error: error.kwargs.get("provider") == "custom-process",
}
"""Exception of botocore -> whether this one will occur again."""


def is_network_error(error: BaseException | None) -> bool:
    """Whether the error is that of a connection, so that its text contains the URL."""
    from botocore.exceptions import ConnectionError, HTTPClientError

    return isinstance(error, (ConnectionError, HTTPClientError))


def is_missing(error: "ClientError") -> bool:
    """Whether the server says that the object or the multipart upload does not exist."""
    return code_of(error) in ("NoSuchKey", "NoSuchUpload", "InvalidPart", "InvalidRange") or (
        code_of(error) == "404" and not _is_html(error)
    )


def refusal(error: "ClientError", endpoint: str) -> str:
    """Code and remedy of an error that is not transient. endpoint: URL of the server."""
    code, message = code_of(error), str(error.response.get("Error", {}).get("Message") or "").strip().rstrip(".")
    if error.operation_name.startswith(("AssumeRole", "GetRoleCredentials", "CreateToken")):
        text = f"{code} from {error.operation_name}: correct the role of the profile or the service account"
    elif code in REMEDIES:
        text = f"{code}: {message}; {REMEDIES[code]}" if code in REGION_CODES else f"{code}: {REMEDIES[code]}"
    elif code == "400" and _expects_tls(endpoint):
        text = SPEAKS_TLS
    elif code.isdigit():
        text = f"the response is not that of an S3 server (HTTP status {_status(error)}); {OTHER_SERVER}"
    elif "checksum" in message.lower():
        text = f"{code}: the server does not support checksums (CRC32); use a server that does"
    else:
        text = f"{code}: {message or _status(error)}; correct the settings of S3"
    return text


def remedy_for(error: "BotoCoreError | ValueError") -> str:
    """The cause and remedy of an error before or instead of a response, which is not transient."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    text, name = summary(error), type(error).__name__
    remedies: dict[type[Exception] | tuple[type[Exception], ...], str] = {
        boto.SSLError: _tls_problem(str(error)),
        boto.ConnectionClosedError: SPEAKS_TLS,
        boto.ProxyConnectionError: REMEDIES["407"],
        ResponseParserError: f"the response is not that of an S3 server; {OTHER_SERVER}",
        (boto.NoCredentialsError, boto.PartialCredentialsError): f"{text}; set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        boto.ProfileNotFound: f"{text}; correct AWS_PROFILE",
        boto.NoRegionError: f"{text}; set AWS_REGION",
    }
    for kinds, remedy in remedies.items():
        if isinstance(error, kinds):
            return remedy
    if "endpoint" in text:
        return f"{text}; write AWS_ENDPOINT_URL_S3 as https://host:port"
    if re.search("SSO|Token|Login", name):
        return f"{text}; log in again: aws sso login"
    return f"{text}; correct the settings of boto3 (environment, AWS_CONFIG_FILE)"


def _tls_problem(text: str) -> str:
    reason = re.search(r"(?:certificate verify failed: |(?=hostname '))(.*?)(?: \(_ssl|$)", text)
    if not reason:
        return "the server does not use TLS at this port; write http:// or another port in AWS_ENDPOINT_URL_S3"
    if "match" in reason[1]:
        return f"{reason[1]}; correct the host name in AWS_ENDPOINT_URL_S3"
    if "expired" in reason[1]:
        return f"{reason[1]}; renew the certificate of the server"
    return f"its certificate is not trusted ({reason[1]}); set AWS_CA_BUNDLE to the file of its authority's certificate"


@cache
def _expects_tls(url: str) -> bool:
    """Whether a server that is addressed without TLS expects it."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return False
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent over this connection
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 80), PROBE_TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    except (OSError, ValueError):
        return False


def code_of(error: "ClientError") -> str:
    """The code of the error; the HTTP status if the response has none, as of a proxy."""
    return str(error.response.get("Error", {}).get("Code") or _status(error))


def _status(error: "ClientError") -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_conflict(error: "ClientError") -> bool:
    """Whether the condition of a put is not met."""
    return _status(error) == 412


def _is_html(error: "ClientError") -> bool:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return "html" in headers.get("content-type", "")


def summary(error: BaseException | None) -> str:
    """A short description of an error without URLs, which its text may contain."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return code_of(error)
    return type(error).__name__ if is_network_error(error) else " ".join(str(error).split()).rstrip(".")
