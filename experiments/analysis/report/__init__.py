"""The report of a results folder as one HTML file that needs nothing else; see `experiments/report.py`.

`inputs` reads the folder, `document` puts the sections together, each in a file of its own: `overview`, `regimes`
(a regime map each), `strategies` (compared), `settings`, `failures`. `page` makes the HTML.
"""
