// Exchanges a key for a cookie of some hours that no script can read. The key is sent once, in a header, and kept nowhere.

const form = document.getElementById("login");
const field = document.getElementById("key");
const said = document.getElementById("said");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  said.textContent = "";
  const key = field.value.trim();
  field.value = "";
  let response;
  try {
    response = await fetch("../v1/session", { method: "POST", headers: { authorization: `Bearer ${key}` } });
  } catch {
    said.textContent = "The gateway cannot be reached, or the key holds characters that cannot be sent.";
    return;
  }
  if (response.ok) {
    location.replace("../");
    return;
  }
  const body = await response.json().catch(() => ({}));
  said.textContent = body.detail || `The gateway answered ${response.status}.`;
  field.focus();
});
