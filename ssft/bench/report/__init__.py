"""What a comparison found, for people: tables, sentences, plots, one page, and two results side by side."""
