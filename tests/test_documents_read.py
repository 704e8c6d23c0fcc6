from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.documents.clean import normalise
from comity.documents.read import Document, read
from comity.documents.split import split
from comity.errors import DocumentError
from data_documents import docx, image_pdf, pdf, write


def read_bytes(folder: Path, name: str, data: bytes) -> Document:
    path = folder / name
    path.write_bytes(data)
    return read(path)


def refusal(folder: Path, name: str, data: bytes) -> str:
    with pytest.raises(DocumentError) as caught:
        read_bytes(folder, name, data)
    assert name in str(caught.value)
    return caught.value.problem


def test_a_document_names_its_file_and_the_hash_of_its_bytes(tmp_path: Path) -> None:
    data = "云岭市规定\n\n第一条 船只应当登记。".encode()
    document = read_bytes(tmp_path, "rules.txt", data)
    assert document.name == f"{tmp_path.name}/rules.txt"
    assert document.sha256 == hashlib.sha256(data).hexdigest()
    assert document.line_of(document.text.index("第一条")) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_chinese_text_is_read_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    text = "云岭市公共场所养犬管理条例\n第一条 为了规范养犬行为，维护公共秩序，制定本条例。"
    path = write(tmp_path / "rules.txt", text, encoding)
    assert read(path).text == text


def test_western_text_is_read_in_windows_1252(tmp_path: Path) -> None:
    text = "Règlement du port\n\nSection 1. La fenêtre reste fermée après dix heures, même l’été."
    assert "fenêtre reste fermée" in read(write(tmp_path / "port.txt", text, "cp1252")).text


def test_a_damaged_utf_8_file_is_refused_at_its_byte(tmp_path: Path) -> None:
    data = "云岭市公共场所养犬管理条例".encode()
    problem = refusal(tmp_path, "rules.txt", data[:6] + b"\xff" + data[6:])
    assert "byte 6 (0xff)" in problem
    assert "tried UTF-8, UTF-16" in problem
    assert "Save the file as UTF-8" in problem


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    assert "byte 3 is zero" in refusal(tmp_path, "rules.txt", b"abc\x00\x01")
    assert "cannot be decoded" in refusal(tmp_path, "data.txt", b"\xff\xd8\x00\x10JFIF\x00")


def test_a_byte_order_mark_that_does_not_fit_is_said(tmp_path: Path) -> None:
    assert "says UTF-16" in refusal(tmp_path, "rules.txt", b"\xff\xfea\x00b")


@pytest.mark.parametrize("data", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_an_empty_document_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "is empty" in refusal(tmp_path, "rules.txt", data)


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(DocumentError, match=r"100\.0 MB, over the limit of 50\.0 MB.*max_file_mb"):
        read(path)


def test_a_missing_file_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="does not exist"):
        read(tmp_path / "gone.md")
    assert "save it as .docx" in refusal(tmp_path, "rules.doc", b"x")
    assert "readable are .pdf, .docx" in refusal(tmp_path, "rules.png", b"x")


def test_a_documents_name_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules" / "old").mkdir(parents=True)
    path = write(tmp_path / "rules" / "port.txt", "Vessels moor at the quay.")
    monkeypatch.chdir(tmp_path / "rules" / "old")
    assert read(Path("../port.txt")).name == read(path).name == "rules/port.txt"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "rules.md"
    folder.mkdir()
    with pytest.raises(DocumentError, match="no regular file"):
        read(folder)


def test_widths_and_spaces_are_normalised_and_chinese_punctuation_is_kept() -> None:
    text = "第１２条\u3000费用为５０％，\u200bＡＢ类\u00a0\u00a0船只（免费）；\r\n见３．２款。\tEnd"
    assert normalise(text) == "第12条 费用为50％，AB类 船只（免费）；\n见3.2款。 End".replace(
        "％", "%"
    )


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@given(st.text())
def test_normalising_keeps_the_number_of_lines(text: str) -> None:
    newlines = re.findall("\r\n|[\r\n\x0b\x0c\x85\u2028\u2029]", text)
    assert normalise(text).count("\n") == len(newlines)


def test_markdown_keeps_its_lines_and_loses_its_decoration(tmp_path: Path) -> None:
    text = "---\ntitle: x\n---\n# Rules\n<!-- a\nnote -->\n**Article 1.** See [the map](map.png).\n"
    document = read(write(tmp_path / "rules.md", text))
    assert document.text.split("\n")[6] == "Article 1. See the map."


def test_html_keeps_headings_and_lists_and_drops_the_rest(tmp_path: Path) -> None:
    html = (
        "<html><head><title>Port rules</title><style>p {}</style></head><body><nav>Home</nav>"
        "<script>x()</script><h2>Chapter 1: Quay</h2><p>Vessels <b>moor</b> at the "
        "<a href='q'>quay</a>.</p><ul><li>No fires.</li><li>No nets.</li></ul></body></html>"
    )
    text = read(write(tmp_path / "port.html", html)).text
    assert text == (
        "# Port rules\n\n## Chapter 1: Quay\n\nVessels moor at the quay.\n\n- No fires.\n- No nets."
    )


def test_docx_keeps_headings_and_lists(tmp_path: Path) -> None:
    data = docx(
        [
            ("Title", "云岭公司行为规范"),
            ("Heading 1", "第一章 礼品"),
            ("Normal", "第一条　员工不得收受现金。"),
            ("Normal", "（一）购物卡视同现金。"),
            ("Heading 1", "附件一"),
            ("List Bullet", "登记簿由人力资源部保管。"),
            ("List Bullet", "登记簿每年核对。"),
        ]
    )
    found = split(read_bytes(tmp_path, "code.docx", data))
    assert [(one.title, one.article, one.text) for one in found] == [
        (
            "云岭公司行为规范 > 第一章 礼品",
            "第一条",
            "员工不得收受现金。\n\n（一）购物卡视同现金。",
        ),
        ("云岭公司行为规范 > 附件一", "", "登记簿由人力资源部保管。"),
        ("云岭公司行为规范 > 附件一", "", "登记簿每年核对。"),
    ]


def test_a_damaged_docx_is_refused(tmp_path: Path) -> None:
    whole = docx([("Normal", "Article 1. Vessels moor at the quay.")])
    assert "may be damaged" in refusal(tmp_path, "half.docx", whole[: len(whole) // 2])
    assert "may be damaged" in refusal(tmp_path, "text.docx", b"PK\x03\x04 no archive")
    assert "without a password" in refusal(tmp_path, "old.docx", b"\xd0\xcf\x11\xe0 old")


WHOLE = {
    "docx": docx([("Heading 1", "Chapter 1"), ("Normal", "Article 1. Vessels moor at the quay.")]),
    "pdf": pdf([["Article 1. Vessels moor at the quay."] * 9] * 2, "Port Merrow Ordinance"),
}
ENGLISH_PAGES = [
    [
        "Article 1. Vessels moor at the quay between the two lights and no-",
        "where else; the harbour master decides in a storm, and every vessel",
        "follows. It keeps its engine off.",
        "Article 2. Under this Ordinance every master pays the fee set out in",
    ],
    [
        "Article 9 of the Coast Act within three days of the vessel's arrival.",
        "Article 3. Nets dry on the slip.",
    ],
    ["Article 4. Fires are forbidden."],
]


def test_a_pdf_loses_its_running_heads_and_page_numbers_and_its_lines_are_joined(
    tmp_path: Path,
) -> None:
    document = read_bytes(tmp_path, "port.pdf", pdf(ENGLISH_PAGES, "Port Merrow Ordinance"))
    assert document.text.split("\n\n") == [
        "Article 1. Vessels moor at the quay between the two lights and nowhere else; the harbour "
        "master decides in a storm, and every vessel follows. It keeps its engine off.",
        "Article 2. Under this Ordinance every master pays the fee set out in Article 9 of the "
        "Coast Act within three days of the vessel's arrival.",
        "Article 3. Nets dry on the slip.",
        "Article 4. Fires are forbidden.",
    ]
    assert [document.text[start:][:9] for start in document.pages[1:]] == ["Article 9", "Article 4"]
    assert document.where(len(document.text) - 1) == "page 3"


def test_the_broken_lines_of_a_chinese_pdf_are_joined_without_a_space(tmp_path: Path) -> None:
    pages = [
        [
            "第一条 船只应当停泊在两座灯塔之间的码头，不得停泊在其他水域；遇有",
            "风暴，由港务长决定。",
            "第二条 违反第一条规定，或者不执行港务长依照本办法作出的决定和依照",
            "第九条的规定发布的命令的，处五十元罚款。",
        ],
        ["第三条 渔网应当晾晒在滑道上。"],
    ]
    document = read_bytes(tmp_path, "port.pdf", pdf(pages, "云岭港办法", chinese=True))
    assert document.text.split("\n\n") == [
        "第一条 船只应当停泊在两座灯塔之间的码头，不得停泊在其他水域；遇有风暴，由港务长决定。",
        "第二条 违反第一条规定，或者不执行港务长依照本办法作出的决定和依照"
        "第九条的规定发布的命令的，处五十元罚款。",
        "第三条 渔网应当晾晒在滑道上。",
    ]


def test_an_encrypted_pdf_is_refused(tmp_path: Path) -> None:
    data = pdf([["Article 1. Secret."]], password="quay")
    assert "is encrypted" in refusal(tmp_path, "port.pdf", data)


def test_a_pdf_of_images_is_refused_with_the_way_out(tmp_path: Path) -> None:
    assert "text recognition" in refusal(tmp_path, "scan.pdf", image_pdf())


@settings(deadline=None, max_examples=40)
@given(
    places=st.lists(st.floats(0, 0.999), min_size=1, max_size=20),
    byte=st.integers(0, 255),
    format=st.sampled_from(["docx", "pdf"]),
)
def test_damage_anywhere_in_a_file_is_read_or_refused_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, places: list[float], byte: int, format: str
) -> None:
    data = bytearray(WHOLE[format])
    for place in places:
        data[int(place * len(data))] = byte
    path = tmp_path_factory.mktemp("damaged") / f"rules.{format}"
    path.write_bytes(data)
    try:
        assert read(path).text.strip()
    except DocumentError as error:
        assert error.path == str(path)  # noqa: PT017 - either outcome is right


def test_a_damaged_pdf_is_refused(tmp_path: Path) -> None:
    assert "no readable PDF" in refusal(tmp_path, "port.pdf", b"%PDF-1.7\nnothing follows")
