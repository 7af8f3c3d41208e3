import globals from "globals";

/** What a slip of the hand looks like; how the code is laid out is the formatter's affair. */
const rules = {
  "no-undef": "error",
  "no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
  "no-var": "error",
  "prefer-const": "error",
  eqeqeq: "error",
  "no-implicit-coercion": ["error", { boolean: false }],
  "no-empty": "error",
  "no-eval": "error",
  "no-implied-eval": "error",
  "no-new-func": "error",
  "no-shadow": "error",
  "no-fallthrough": "error",
  "no-self-compare": "error",
  "no-unreachable": "error",
  "no-constant-condition": ["error", { checkLoops: false }],
  "no-promise-executor-return": "error",
  "require-atomic-updates": "off",
};

/** Text is never taken for HTML, and styles that a page with our Content-Security-Policy would refuse are not written. */
const html = [
  "innerHTML",
  "outerHTML",
  "insertAdjacentHTML",
  "setHTMLUnsafe",
  "createContextualFragment",
  "parseFromString",
  "srcdoc",
  "cssText",
].map((property) => ({
  selector: `MemberExpression[property.name='${property}']`,
  message: `${property} reads text as HTML or as an inline style`,
}));

export default [
  { ignores: ["node_modules/"] },
  {
    files: ["*.js"],
    languageOptions: { ecmaVersion: 2024, sourceType: "module", globals: globals.browser },
    rules: {
      ...rules,
      "no-restricted-syntax": ["error", ...html],
      "no-console": ["error", { allow: ["error"] }],
    },
  },
  {
    files: ["**/*.mjs"],
    languageOptions: {
      ecmaVersion: 2024,
      sourceType: "module",
      globals: { ...globals.node, ...globals.browser },
    },
    rules,
  },
];
