import pickle

import pytest

from cnnsim_tf.errors import ParameterError, StudyError
from cnnsim_tf.process.redaction import redacted, redacted_values, shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://anna:secret@host:5000", "http://host:5000"),
        ("at https://t0ken@host/x, and then", "at https://host/x, and then"),
        ("'postgresql+psycopg2://anna:se@cret@db/mlflow'", "'postgresql+psycopg2://db/mlflow'"),
        ("mysql://u:p%40ss@db:3306/m?charset=utf8", "mysql://db:3306/m?charset=utf8"),
        ("postgresql://db/m?user=a&password=secret&sslmode=off", "postgresql://db/m?user=a&password=…&sslmode=off"),
        ("http://anna:se/cret@host:5000/a", "http://host:5000/a"),
        ("http://host/?access_token=abc", "http://host/?access_token=…"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=…"),
        ("https://oauth2:glpat-x@gitlab.example/a/b.git", "https://gitlab.example/a/b.git"),
        ("no such file: https:/anna:secret@host/x.npz", "no such file: https:/host/x.npz"),
        ("s3:/AKIA:secret@bucket/x.npz?versionId=1", "s3:/bucket/x.npz?versionId=1"),
        ("https:/host/x.npz?sig=secret&x-api-key=b", "https:/host/x.npz?sig=…&x-api-key=…"),
        ("scheduler is 'anna:secret@host:8786'", "scheduler is 'host:8786'"),
        ("postgresql://h/db?user=u&pass=secret&ssl_key=k", "postgresql://h/db?user=u&pass=…&ssl_key=…"),
    ],
)
def test_an_address_keeps_where_and_loses_who(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/anna@work/mlflow.db is an ordinary path",
        "http://127.0.0.1:5000/#/experiments/1/runs?orderByKey=a&searchFilter=b",
        "models:/cnnsim_warmstart@cosine",
        "git@github.com:a/b.git",
        "http://host:5000/models/m@cosine and https://example.org/@anna",
        "sqlite:////home/a:b@c/mlflow.db?timeout=60 at 12:30",
        "a=password=1 5 × 3 @ home",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


def test_a_password_that_does_not_look_like_one_word_is_known_from_the_stores_own_uri(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:my secret#1@host:5000")
    assert redacted("cannot reach http://anna:my secret#1@host:5000/api") == "cannot reach http://host:5000/api"


def test_of_values_only_texts_change():
    assert redacted_values({"a": "http://x:y@z", "b": 1, "c": ("d",)}) == {"a": "http://z", "b": 1, "c": ("d",)}


# --- what a terminal would obey, and what is long ---------------------------------------------------------------------

ODD = {
    "a\x1b[2Jb": r"a\x1b[2Jb",
    "a\x9b31mb\x85": r"a\x9b31mb\x85",
    "a\u202etxt.exe\u2066": r"a\u202etxt.exe\u2066",
    "a\udcff.npz": r"a\xff.npz",
    "a\ud800\x00\x7f\x08\u2028": r"a\ud800\x00\x7f\x08\u2028",
}


@pytest.mark.parametrize("text", ODD)
def test_what_a_terminal_obeys_is_written_out_wherever_it_goes(text):
    assert redacted(text) == shown(text) == redacted(ODD[text]) == ODD[text]


def test_lines_stay_lines_in_what_is_stored_and_are_written_out_in_a_sentence():
    assert redacted("a\tb\r\nc") == "a\tb\r\nc"
    assert shown("a\tb\r\nc") == r"a\x09b\x0d\x0ac"


@pytest.mark.parametrize("name", ["x" * 10_000, "a b " * 2_500, "it's\n" * 2_000, "\udcff" * 10_000, "a,b" * 5_000])
@pytest.mark.parametrize("sentence", ["the noise {!r} is unknown: use 'blur'", "the file {} is not there: use 'blur'"])
def test_what_a_user_gave_loses_its_middle_and_the_rest_of_the_sentence_stays(name, sentence):
    said = str(StudyError(sentence.format(name)))
    assert len(said) <= 1000 and "\n" not in said
    assert said.startswith(sentence.partition("{")[0]) and said.endswith(": use 'blur'")
    assert "…" in said
    assert str(StudyError(said)) == said  # of one that names another
    said.encode()


def test_what_stands_between_two_apostrophes_is_no_name():
    prose = f"the study's images are {'not ' * 80}the user's own"
    assert shown(prose) == prose


@pytest.mark.parametrize("at", [100, 400, 900])
def test_a_password_is_gone_before_the_middle_is(at):
    said = shown(f"cannot reach http://anna:{'s' * at}ecret{'t' * 400}@host/x: start it")
    assert said == "cannot reach http://host/x: start it"


def test_an_error_arrives_from_another_process_as_it_was():
    error = pickle.loads(pickle.dumps(ParameterError(f"level is {'x' * 999!r}: a\nb")))
    assert isinstance(error, ParameterError) and str(error) == str(ParameterError(str(error)))
