"""Every plan that can run here, measured in turn: does the estimate order them as they are?"""
