"""The measures of downstream tasks: pure functions of texts and numbers. All are percent, as papers print them."""
