"""Everything a person looks at: the page, its charts, the tables and the sentences.

Every module here renders from a `Result` alone: no model is loaded and nothing is measured again.
"""
