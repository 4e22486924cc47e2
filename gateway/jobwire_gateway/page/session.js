// Where callers must say who they are, and this browser has not, leads to the page on which it can.

export async function needSession() {
  const response = await fetch("v1/session").catch(() => null);
  if (response && response.status === 401) location.replace("page/login.html");
}
