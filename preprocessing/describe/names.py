"""Words in the names of columns that tell what the columns hold."""

import re

LABELS = (
    "label", "click", "clicked", "isclick", "isclicked", "clk", "target", "y", "isattributed",
    "conversion", "converted", "isconverted", "purchase", "purchased", "buy", "isbuy", "bought",
    "like", "liked", "islike", "isliked", "response", "outcome", "clicklabel", "klick", "点击",
    "ctr", "istrade",
)  # fmt: skip
"""Names of a column of clicks, without separators, the surest first."""
RATINGS = ("rating", "ratings", "score", "stars", "star", "overall", "grade")
BEHAVIOURS = (
    ("buy", "purchase", "purchased", "transaction", "order", "pay", "checkout", "conversion"),
    ("cart", "addtocart", "basket"),
    ("fav", "favorite", "favourite", "like", "collect", "share"),
    ("click", "clicked", "clk"),
    ("pv", "view", "pageview", "impression", "show", "exposure", "display", "visit", "browse"),
)
"""Texts that name what a user did, the most deliberate first."""
USERS = (
    "user", "userid", "uid", "usr", "memberid", "member", "msno", "customer", "customerid",
    "visitor", "visitorid", "cookie", "cookieid", "buyer", "buyerid", "client", "clientid",
    "viewer", "viewerid", "reviewer", "reviewerid", "userhash", "username", "account",
    "accountid",
)  # fmt: skip
TIMES = (
    "timestamp", "time", "datetime", "ts", "date", "eventtime", "clicktime", "createdat", "hour",
    "dt", "t", "unixtime", "day", "timems", "servertime", "impressiontime", "logtime",
    "unixreviewtime",
)  # fmt: skip
"""Names of a time, the surest first."""
_ID_WORDS = frozenset({
    "id", "ids", "code", "category", "categories", "cat", "cate", "type", "brand", "zip",
    "zipcode",
    "campaign", "adgroup", "ad", "creative", "device", "os", "browser", "channel", "app", "ip",
    "site", "domain", "hash", "gender", "sex", "country", "region", "city", "province", "state",
    "weekday", "weekend", "hour", "month", "day", "model", "network", "carrier", "language",
    "lang",
    "item", "product", "sku", "shop", "store", "seller", "movie", "song", "artist", "genre",
    "genres", "tag", "tags", "keyword", "query", "url", "page", "position", "pos", "slot",
    "banner",
    "segment", "group", "class", "pid", "uid", "cid", "level", "occupation",
})  # fmt: skip
_AMOUNT_WORDS = frozenset({
    "count", "counts", "cnt", "num", "number", "n", "amount", "amt", "price", "cost", "bid",
    "age",
    "score", "ratio", "rate", "avg", "average", "mean", "sum", "total", "days", "duration", "len",
    "length", "size", "freq", "frequency", "pv", "uv", "balance", "height", "width", "salary",
    "income", "quantity", "qty", "revenue", "spend", "value", "weight", "seconds", "minutes",
    "hours", "visits", "views", "clicks", "impressions", "distance", "depth", "share", "pct",
    "percent", "latitude", "longitude", "lat", "lon", "temperature",
})  # fmt: skip


def flat(name: str) -> str:
    """A name in small letters, without separators: User_ID → userid."""
    return re.sub(r"[\W_]+", "", name).lower()


def words(name: str) -> list[str]:
    """The words of a name: userId → user, id."""
    parts = re.sub(r"([a-z\d])([A-Z])", r"\1 \2", name)
    return re.sub(r"[\W_]+", " ", parts).lower().split()


def says_id(name: str) -> bool:
    """True for a name that tells a category, such as site_id."""
    return _kind(name) == "id"


def says_amount(name: str) -> bool:
    """True for a name that tells a quantity, such as num_visits or song_length."""
    return _kind(name) == "amount"


def _kind(name: str) -> str:
    """The last word that tells something, or else the first one."""
    kinds = [
        "id" if w in _ID_WORDS else "amount" if w in _AMOUNT_WORDS else "" for w in words(name)
    ]
    return (kinds[-1] or next(filter(None, kinds), "")) if kinds else ""


def is_known(name: str) -> bool:
    """True for a name that tells what its column holds."""
    known = flat(name) in (*LABELS, *RATINGS, *USERS, *TIMES)
    return known or says_id(name) or says_amount(name)
