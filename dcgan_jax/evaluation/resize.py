RULES = ("pytorch-fid",)
