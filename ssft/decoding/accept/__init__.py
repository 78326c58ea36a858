"""Who decides which nodes of a draft are the text: the main stream, greedily or by drawing."""
