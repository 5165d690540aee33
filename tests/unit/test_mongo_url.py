import pytest

from functions.mongo import mongo_url
from milepost.errors import ConfigurationError


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://127.0.0.1:27017/milepost",
        "mongodb://ada:p%40ss@one:27017,two:27017/milepost?replicaSet=rs&appName=a%40b",
        "mongodb://[::1]:27017",
        "mongodb+srv://ada:p%2Fss@cluster.example.org/milepost?retryWrites=true",
    ],
)
def test_urls(url: str) -> None:
    assert mongo_url({"MONGO_URL": url}) == url


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
@pytest.mark.parametrize(
    "rest",
    [
        "ada:12/34@host",
        "ada:12/34@host/db",
        "ada:12?34@host",
        "ada:12?x=34@host",
        "ada:1@34@host",
        "ada:12/34@host:99",
        "ada:12#34@host",
        "ada:12[34@host",
        "ada:12]34@host",
        "ada:[34]@host",
        "a[d]a:1234@host",
        "ada:12\x0034@host",
        "ada:12 34@host",
        "ada:12%34@host:99:1",
        "",
        "host:34x",
    ],
)
def test_unencoded_password_is_refused_without_being_shown(scheme: str, rest: str) -> None:
    with pytest.raises(ConfigurationError, match="MONGO_URL: must look like mongodb://") as raised:
        mongo_url({"MONGO_URL": f"{scheme}://{rest}"})
    assert "34" not in str(raised.value).replace("host:port", "")
    assert raised.value.__context__ is None


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="MONGO_URL: must look like mongodb://"):
        mongo_url({"MONGO_URL": "mongo://host"})
