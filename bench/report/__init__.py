"""report.html: saved runs as one page that needs nothing else, read on a phone, on a desk or on paper."""
