"""Files that several processes and threads use at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from greenstack.cli.lock import write


def test_who_reads_meanwhile_gets_a_whole_text(tmp_path: Path) -> None:
    file = tmp_path / ".run/file"
    texts = [letter * 10_000 for letter in "abcd"]
    write(file, texts[0])

    def rewrite(text: str) -> None:
        for _ in range(50):
            write(file, text)
            assert file.read_text() in texts

    with ThreadPoolExecutor() as pool:
        list(pool.map(rewrite, texts))
    assert list(file.parent.iterdir()) == [file]
