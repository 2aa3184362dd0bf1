"""A report as a document of pages that is printed as it is read."""

from io import BytesIO

from meshwise.report.document import Report
from meshwise.report.style import drawn
from meshwise.report.writing import Files, writer


@writer(".pdf")
def pdf(report: Report) -> Files:
    """Pages in A4, text and plots as lines and letters."""
    from matplotlib.backends.backend_pdf import PdfPages

    from meshwise.report.paper.pages import pages

    file = BytesIO()
    with drawn(), PdfPages(file, metadata={"Title": report.title, "CreationDate": None}) as document:
        for page in pages(report):
            document.savefig(page)
    return {"": file.getvalue()}
