// Formulas are found where the build has marked them, and set again when a page is exchanged without a reload.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], processEscapes: true, processEnvironments: true },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex" },
  // The menu would load parts that the site does not have.
  startup: { ready: () => MathJax.startup.defaultReady() },
};
